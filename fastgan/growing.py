"""Training that starts small: what a picture shows is learnt on little ones, its detail on ever larger ones.

Progressive growing (arXiv:1710.10196) without its fades: at each doubling both networks are built anew and take over
every layer that fits.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.models import downscale


def level_at(levels: Sequence[int], share: float) -> int:
    """Which size a run trains at; it spends twice as long on each as on the one before, so most on the last.

    Args:
        levels: the sizes it trains at, in this order.
        share: how much of the run is over, from 0 to 1.
    """
    stage = int(math.log2(1 + share * (2 ** len(levels) - 1)))
    return levels[min(stage, len(levels) - 1)]


def shrink(images: Tensor, factor: int) -> Tensor:
    """Pictures at 1/factor of their side, each pixel the mean of a square.

    Args:
        images: [B, C, H, W] in [-1, 1]; of four channels the last is straight alpha, and colour counts as much as it
            is seen.
        factor: a power of two.
    """
    if images.shape[1] < 4 or factor == 1:
        return downscale(images, factor)
    opacity = (images[:, 3:] + 1) / 2
    weight = opacity + (1 - opacity) / 64  # what can't be seen counts a little: it needs a colour too
    colours = downscale(images[:, :3] * weight, factor) / downscale(weight, factor)
    return torch.cat([colours, downscale(images[:, 3:], factor)], dim=1)
