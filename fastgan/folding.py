"""A generator for drawing only: normalisation and spectral norm are worked into its convolutions."""

import copy
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils import parametrize

from fastgan import fast
from fastgan.layers import FirstBlock, NoiseInjection, NoisyUpBlock
from fastgan.models import Generator

_made: WeakKeyDictionary[Generator, tuple[tuple, Generator]] = WeakKeyDictionary()


def folded(generator: Generator) -> Generator:
    """The same pictures, up to rounding, with about half the work per picture, in its own precision.

    The result is kept for the next call, as long as the generator lives and its tensors stay as they are. One that is
    in training mode, or any where :func:`fastgan.fast.use` has turned speed-ups off, is returned itself.
    """
    if generator.training or not fast.enabled():
        return generator
    tensors = generator.state_dict(keep_vars=True).values()
    state = tuple((t.data_ptr(), t._version, t.device) for t in tensors)
    if generator not in _made or _made[generator][0] != state:
        _made[generator] = state, _fold(generator)
    return _made[generator][1]


@torch.no_grad()
def _fold(generator: Generator) -> Generator:
    quick = copy.deepcopy(generator).requires_grad_(False)
    device, dtype = next((parameter.device, parameter.dtype) for parameter in quick.parameters())
    if dtype.itemsize < 4:
        quick.float()  # only the result is rounded
    for parent in list(quick.modules()):
        for name, child in parent.named_children():
            if parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _plain(child))
    for block in (quick.first, *quick.up.values()):
        if isinstance(block, NoisyUpBlock):
            block.norm1 = _into(block.conv1, block.norm1, block.noise1)
            block.norm2 = _into(block.conv2, block.norm2, block.noise2)
        else:
            block.norm = _into(block.conv, block.norm)
        if not isinstance(block, FirstBlock):
            doubling = block.conv1 if isinstance(block, NoisyUpBlock) else block.conv
            doubling.register_buffer("kernel", fast.transposed_kernel(doubling.weight))
    quick.to(dtype)
    return quick.to(memory_format=torch.channels_last) if device.type in ("cpu", "cuda") else quick


def _plain(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """The convolution with the weight that its spectral norm gives; taking the norm away would break the original."""
    kind = nn.ConvTranspose2d if isinstance(conv, nn.ConvTranspose2d) else nn.Conv2d
    shape = {"kernel_size": conv.kernel_size, "padding": conv.padding, "padding_mode": conv.padding_mode}
    with torch.device("meta"):
        plain = kind(conv.in_channels, conv.out_channels, bias=False, **shape)
    plain.weight = nn.Parameter(conv.weight, requires_grad=False)
    return plain.eval()


def _into(conv: nn.Module, norm: nn.BatchNorm2d, noise: NoiseInjection | None = None) -> nn.Identity:
    """Work a batch normalisation into the convolution before it; noise between the two is scaled alike."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    outputs = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    conv.weight = nn.Parameter(conv.weight * scale.view(outputs), requires_grad=False)
    conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
    if noise is not None:
        noise.weight = nn.Parameter(noise.weight * scale[:, None, None], requires_grad=False)
    return nn.Identity().eval()
