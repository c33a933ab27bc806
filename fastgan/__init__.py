"""FastGAN for few-shot image generation (arXiv:2101.04775): train, publish and play with a generator."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Discriminator",
    "FastGANGenerator",
    "Generator",
    "ModelConfig",
    "TrainConfig",
    "UserError",
    "from_pretrained",
    "train",
]

_HOME = {
    "Discriminator": "models",
    "FastGANGenerator": "models",
    "Generator": "models",
    "ModelConfig": "config",
    "TrainConfig": "config",
    "UserError": "errors",
    "from_pretrained": "hub",
    "train": "trainer",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import fastgan` alone stays quick."""
    if name in _HOME:
        return getattr(importlib.import_module(f"fastgan.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")
