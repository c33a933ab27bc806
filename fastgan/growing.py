"""Training that starts small: what a picture shows is learnt on little ones, its detail on ever larger ones.

Progressive growing (arXiv:1710.10196) without its fades: at each doubling both networks are built anew and take over
every layer that fits, and the generator's new layers begin by enlarging what it drew before.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.layers import NoisyUpBlock, SpectralNorm
from fastgan.models import Generator, downscale

SMALL = 2 / 3  # of a run, before full size: variety is learnt on small pictures, and kept


def level_at(levels: Sequence[int], share: float) -> int:
    """Which size a run trains at: its last third at full size; before, twice as long at each size as at the next.

    Args:
        levels: the sizes it trains at, in this order.
        share: how much of the run is over, from 0 to 1.
    """
    smaller = len(levels) - 1
    if not smaller or share >= SMALL:
        return levels[-1]
    left = (1 - share / SMALL) * (2**smaller - 1)  # of the smaller sizes' time, the last one of them taking 1
    return levels[smaller - max(1, math.ceil(math.log2(left + 1)))]


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


def can_enlarge(generator: Generator) -> bool:
    """Whether its last map is wide enough for the colours of a smaller picture.

    Where it is gated, for more than these: gates that all stood half open would be weights of nothing but zeros, which
    have no spectral norm.
    """
    width, config = generator.to_full.in_channels, generator.config
    return width > config.channels if config.level in config.gates else width >= config.channels


@torch.no_grad()
def enlarge(larger: Generator, smaller: Generator, batch_size: int = 8, batches: int = 8) -> None:
    """Have a generator of twice the size begin with the pictures of the smaller one, enlarged.

    The new block's first channels are the smaller one's colours before its output activation, behind gates that stand
    half open; the last convolution passes them on and nothing else. All of it goes on learning. A generator whose
    last map is too narrow for that is left as it is.

    Args:
        larger: has the layers of `smaller` that fit.
        smaller: in training mode; its running statistics move.
        batch_size, batches: latents that the colours' mean and deviation are measured on.
    """
    level = larger.config.level
    block, gated = larger.up[str(level)], level in larger.config.gates
    if not can_enlarge(larger):
        return
    colours, width = larger.config.channels, larger.to_full.in_channels
    mean, deviation = _colours(smaller, batch_size, batches)
    kernel = smaller.to_full.parametrizations.weight.original
    identity = torch.zeros(colours, width, 3, 3, device=kernel.device)
    identity[range(colours), range(colours), 1, 1] = 1
    gate = 0.5 if gated else 1.0
    if isinstance(block, NoisyUpBlock):
        _begin(block.conv1, block.norm1, kernel, mean, deviation)
        _begin(block.conv2, block.norm2, identity, mean / gate, deviation / gate)
    else:
        _begin(block.conv, block.norm, kernel, mean / gate, deviation / gate)
    if gated:
        excite = larger.sle[str(level)].excite
        weight = excite.parametrizations.weight.original.clone()
        weight[:colours] = 0  # the sigmoid of nothing is a half
        _set(excite, weight)
    weight = larger.to_full.parametrizations.weight.original.flatten(1)
    scale = float(torch.linalg.matrix_norm(weight.cpu(), 2))  # not every MPS has singular values
    _set(larger.to_full, scale * identity)


def _colours(generator: Generator, batch_size: int, batches: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of the pictures, before the output activation: [C] each."""
    moments: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor], x: Tensor) -> None:
        moments.append(torch.stack([x.float().mean((0, 2, 3)), x.float().square().mean((0, 2, 3))]))

    with generator.to_full.register_forward_hook(note):
        for _ in range(batches):
            generator(generator.latents(batch_size))
    mean, square = torch.stack(moments).mean(dim=0)
    return mean, (square - mean.square()).clamp(min=0).sqrt()


def _begin(layer: nn.Module, norm: nn.BatchNorm2d, kernel: Tensor, mean: Tensor, deviation: Tensor) -> None:
    """Have a convolution, its batch norm and a gated linear unit give `kernel`'s channels this mean and deviation."""
    weight = layer.parametrizations.weight.original.clone()
    weight[: len(kernel)] = kernel
    _set(layer, weight)
    gates = norm.num_features // 2
    norm.weight[: len(kernel)], norm.bias[: len(kernel)] = 2 * deviation, 2 * mean
    norm.weight[gates : gates + len(kernel)], norm.bias[gates : gates + len(kernel)] = 0, 0


def _set(layer: nn.Module, weight: Tensor) -> None:
    """Give a spectrally normalised convolution another weight, and the norm the vectors that belong to it."""
    layer.parametrizations.weight.original.copy_(weight)
    layer.parametrizations.weight[0].load_state_dict(SpectralNorm(weight).state_dict())
