"""FastGAN for few-shot image generation (arXiv:2101.04775): train, publish and play with a generator."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which don't run __getattr__
    from fastgan.config import ModelConfig, TrainConfig
    from fastgan.errors import UserError
    from fastgan.hub import from_pretrained
    from fastgan.models import Discriminator, FastGANGenerator, Generator
    from fastgan.trainer import train

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


_MODULES = ("evaluation", "projection", "sampling", "video")  # whose functions docs/PYTHON.md shows


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import fastgan` alone stays quick."""
    if name in _HOME:
        return getattr(importlib.import_module(f"fastgan.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"fastgan.{name}")
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
