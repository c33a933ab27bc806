"""The page of {{ model }}; what it does is in the package beside this file."""

import os

from fastgan.app import launch

try:
    import spaces  # there on ZeroGPU hardware, and needed nowhere else
except ImportError:
    pass
else:

    @spaces.GPU(duration=1)
    def on_gpu() -> None:
        """ZeroGPU starts no Space without such a function. A CPU draws sooner than a GPU would be handed over."""


if __name__ == "__main__":
    launch(
        "{{ model }}",
        host=os.getenv("GRADIO_SERVER_NAME", "0.0.0.0"),
        port=int(os.getenv("GRADIO_SERVER_PORT", "7860")),
        mcp=True,
    )
