"""Pictures as files hold them and as networks take them."""

import torch
from torch import Tensor


def to_float(pictures: Tensor) -> Tensor:
    """Bytes as networks take them: uint8 0 to 255 to float32 [-1, 1], any shape."""
    return pictures.float() / 127.5 - 1


def to_uint8(pictures: Tensor) -> Tensor:
    """Pictures as bytes: [-1, 1] to 0 to 255, rounded and clipped, any shape."""
    return (pictures.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
