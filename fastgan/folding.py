"""A generator for drawing only: normalisation and spectral norm are worked into its convolutions."""

import copy
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_weights, parametrize

from fastgan import fast
from fastgan.layers import NoiseInjection, NoisyUpBlock
from fastgan.models import Generator
from fastgan.packing import can_pack, pack

_made: WeakKeyDictionary[Generator, tuple[tuple, Generator]] = WeakKeyDictionary()


def folded(generator: Generator) -> Generator:
    """The same pictures, up to rounding, with about half the work per picture, in its own precision.

    It draws as in eval mode, whatever mode the generator is in. The result is kept for the next call, as long as the
    generator lives and its tensors stay as they are. Where :func:`fastgan.fast.use` has turned speed-ups off, one in
    eval mode is returned itself.
    """
    if not fast.enabled():
        return copy.deepcopy(generator).eval() if generator.training else generator
    tensors = generator.state_dict(keep_vars=True).values()
    state = tuple((t.data_ptr(), 0 if t.is_inference() else t._version, t.device) for t in tensors)
    if generator not in _made or _made[generator][0] != state:
        _made[generator] = state, _fold(generator)
    return _made[generator][1]


@torch.no_grad()
def _fold(generator: Generator) -> Generator:
    quick = copy.deepcopy(generator).eval().requires_grad_(False)
    device, dtype = next((parameter.device, parameter.dtype) for parameter in quick.parameters())
    if dtype.itemsize < 4:
        quick.float()  # only the result is rounded
    for parent in list(quick.modules()):
        for name, child in parent.named_children():
            if parametrize.is_parametrized(child, "weight"):
                setattr(parent, name, _plain(child))
    quick.first.norm = _into(quick.first.conv, quick.first.norm)
    quick.first.conv = _Spread(quick.first.conv)
    for block in quick.up.values():
        if isinstance(block, NoisyUpBlock):
            block.noise1 = _ScaledNoise(block.norm1, block.noise1)
            block.noise2 = _ScaledNoise(block.norm2, block.noise2)
            block.norm1 = _into(block.conv1, block.norm1)
            block.norm2 = _into(block.conv2, block.norm2)
        else:
            block.norm = _into(block.conv, block.norm)
        doubling = block.conv1 if isinstance(block, NoisyUpBlock) else block.conv
        doubling.register_buffer("kernel", fast.transposed_kernel(doubling.weight))
    quick.to_small = None  # only a discriminator looks at it
    quick.eval().requires_grad_(False).to(dtype)  # the new parts too
    if device.type in ("cpu", "cuda"):
        quick.to(memory_format=torch.channels_last)
    if can_pack(device, dtype):
        pack(quick)
    return quick


def _plain(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """The convolution with the weight that its spectral norm gives; taking the norm away would break the original."""
    kind = nn.ConvTranspose2d if isinstance(conv, nn.ConvTranspose2d) else nn.Conv2d
    shape = {"kernel_size": conv.kernel_size, "padding": conv.padding, "padding_mode": conv.padding_mode}
    with torch.device("meta"):
        plain = kind(conv.in_channels, conv.out_channels, bias=False, **shape)
    plain.weight = nn.Parameter(conv.weight, requires_grad=False)
    return plain


def _scale(norm: nn.BatchNorm2d) -> torch.Tensor:
    """What a batch normalisation multiplies each channel by."""
    return norm.weight / (norm.running_var + norm.eps).sqrt()


def _into(conv: nn.Module, norm: nn.BatchNorm2d) -> nn.Identity:
    """Work a batch normalisation into the convolution before it."""
    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    transpose = isinstance(conv, nn.ConvTranspose2d)
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, transpose)
    return nn.Identity()


class _ScaledNoise(nn.Module):
    """Noise between a convolution and a batch normalisation that was worked into it: its own strength per channel."""

    def __init__(self, norm: nn.BatchNorm2d, noise: NoiseInjection):
        super().__init__()
        self.weight = nn.Parameter((noise.weight * _scale(norm))[:, None, None], requires_grad=False)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W]; noise: [B, 1, H, W]."""
        if not (x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)):
            return torch.addcmul(x, noise, self.weight)
        # A CPU is quicker at a product of matrices, in place: nobody else has what a convolution has just written.
        pixels = x.permute(0, 2, 3, 1).view(len(x), -1, x.shape[1])
        pixels.baddbmm_(noise.flatten(1)[:, :, None], self.weight.view(1, 1, -1).expand(len(x), 1, -1))
        return x


class _Spread(nn.Module):
    """The first convolution, which sees one pixel only, as the product of matrices that it is."""

    def __init__(self, conv: nn.ConvTranspose2d):
        super().__init__()
        inputs, self.channels, self.height, self.width = conv.weight.shape
        weight = conv.weight.permute(2, 3, 1, 0).reshape(-1, inputs)  # of the outputs channels come last, as in memory
        self.linear = nn.Linear(*weight.T.shape, device="meta")
        self.linear.weight = nn.Parameter(weight, requires_grad=False)
        self.linear.bias = nn.Parameter(conv.bias.repeat(self.height * self.width), requires_grad=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z: [B, Z, 1, 1]. Returns [B, C, h, w]."""
        x = self.linear(z.flatten(1))
        return x.view(-1, self.height, self.width, self.channels).permute(0, 3, 1, 2)
