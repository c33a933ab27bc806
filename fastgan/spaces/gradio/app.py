"""The page of {{ model }}; what it does is in the package beside this file."""

import os
import sys

from fastgan.app import launch
from fastgan.cli import run

try:
    import spaces  # there on ZeroGPU hardware, and needed nowhere else
except ImportError:
    pass
else:

    @spaces.GPU(duration=1)
    def on_gpu() -> None:
        """ZeroGPU starts no Space without such a function; the page itself draws on the CPU."""


if __name__ == "__main__":
    host, port = os.getenv("GRADIO_SERVER_NAME", "0.0.0.0"), int(os.getenv("GRADIO_SERVER_PORT", "7860"))
    sys.exit(run(lambda: launch("{{ model }}", host=host, port=port, mcp=True)))
