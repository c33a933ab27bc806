"""Convolutions for drawing only, whose weights lie in memory as a CPU's oneDNN reads them.

PyTorch otherwise brings every weight into that order anew for each batch, which takes as long as the arithmetic where
maps are small and weights are large.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan import fast
from fastgan.layers import NoisyUpBlock, gated
from fastgan.models import Generator

DILATION = [1, 1]
ROW_BYTES = 128  # maps with fewer per pixel take less time with four pixels in a row
SMALL = 32  # pixels: on larger maps, summing up nine products costs what the products save
OPERATORS = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a generator on this device and in this precision can be packed."""
    return (
        device.type == "cpu"
        and fast.has_mkldnn("AVX", *OPERATORS)
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()))
    )


@torch.no_grad()
def pack(generator: Generator) -> None:
    """Give a generator on a CPU, into whose convolutions all else has been worked, packed ones: it draws the same.

    From then on it can't be moved, no gradient passes through it, and its `state_dict` lacks their weights.
    """
    spread = generator.first.conv
    spread.linear = PackedLinear(spread.linear.weight, spread.linear.bias)
    for level, block in generator.up.items():
        doubling = ProductDoubling if min(generator.config.size_at(int(level) // 2)) <= SMALL else PackedDoubling
        if isinstance(block, NoisyUpBlock):
            block.conv1, block.conv2 = doubling(block.conv1), PackedConv.of(block.conv2)
        elif block.conv.out_channels // 2 * block.conv.weight.itemsize < ROW_BYTES:
            generator.up[level] = PhasedUpBlock(block.conv)
        else:
            block.conv = doubling(block.conv)
    for gate in generator.sle.values():
        gate.squeeze, gate.excite = PackedConv.of(gate.squeeze), PackedConv.of(gate.excite)
    last = generator.up[str(generator.config.level)]
    if isinstance(last, PhasedUpBlock):
        tanh = isinstance(generator.bound, nn.Tanh)
        generator.up[str(generator.config.level)] = PhasedEnd(last, generator.to_full, tanh)
        generator.to_full, generator.bound = nn.Identity(), nn.Identity()
    else:
        generator.to_full = PhasedConv(generator.to_full)


class PackedConv(nn.Module):
    """A convolution.

    Args:
        weight: [C', C, k, k].
        bias: [C'], or None.
        stride, padding: the same for both directions.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0):
        super().__init__()
        self.fixed = [padding, padding], [stride, stride], DILATION
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.fixed)

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "PackedConv":
        """The same as a convolution that pads with zeros."""
        return cls(conv.weight, conv.bias, conv.stride[0], conv.padding[0])

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]."""
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self.fixed, 1, "none", [], "")


class PackedDoubling(nn.Module):
    """Nearest 2× and a 3×3 convolution, as the transposed convolution that :func:`fastgan.fast.double_conv` knows."""

    fixed = [1, 1], [0, 0], [2, 2], DILATION  # padding, of the output too, stride and dilation

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.bias = conv.bias
        self.packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(conv.kernel, *self.fixed)

    def doubled(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, C', 2H, 2W]."""
        operator = torch.ops.mkldnn._convolution_transpose_pointwise
        return operator(x, self.packed, self.bias, *self.fixed, 1, "none", [], "")


class PackedLinear(nn.Module):
    """A product of vectors and a matrix [C', C], plus a bias [C'] where there is one."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.bias = bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """x: [..., C]; plus: [..., C'], to be added. Returns [..., C']."""
        operator = torch.ops.mkldnn._linear_pointwise
        if plus is None:
            return operator(x, self.packed, self.bias, "none", [], "")
        return operator.binary(x, plus, self.packed, self.bias, "add")


class ProductDoubling(nn.Module):
    """Nearest 2× and a 3×3 convolution, as nine products of matrices: a quarter of these two's multiplications.

    Taps a, b, c make two pixels of one in a row of x: a·x[i-1] + (b + c)·x[i] and (a + b)·x[i] + c·x[i+1]. With
    s = a + b + c these are s·x[i] - a·(x[i] - x[i-1]) and s·x[i] + c·(x[i+1] - x[i]), so three products do for two
    pixels, and nine for four.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        taps = _of_steps(_of_steps(conv.weight.float(), 2), 3).to(conv.weight.dtype)
        biases = iter([conv.bias, *[None] * 8])  # all four pixels have the first product in them
        self.rows = nn.ModuleList(nn.ModuleList(map(PackedLinear, row.unbind(2), biases)) for row in taps.unbind(2))

    def doubled(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, C', 2H, 2W]."""
        rows = []  # of products, for even columns and for odd ones
        for (product, *step_products), row in zip(self.rows, _with_steps(x.permute(0, 2, 3, 1), 1), strict=True):
            pixels, *steps = _with_steps(row, 2)
            shared = product(pixels)
            rows.append([of_step(step, shared) for of_step, step in zip(step_products, steps, strict=True)])
        count, height, width, outputs = shared.shape
        doubled = x.new_empty(count, height, 2, width, 2, outputs)
        for column, (whole, before, behind) in enumerate(zip(*rows, strict=True)):
            torch.add(whole, before, out=doubled[:, :, 0, :, column])
            torch.add(whole, behind, out=doubled[:, :, 1, :, column])
        return doubled.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _of_steps(taps: Tensor, dim: int) -> Tensor:
    """Three taps on doubled pixels as those of a pixel, of the step to it and of the step from it."""
    before, middle, behind = taps.unbind(dim)
    return torch.stack([before + middle + behind, -before, behind], dim)


def _with_steps(x: Tensor, dim: int) -> list[Tensor]:
    """Pixels, the step to each from the one before, and the step from each to the one behind; around is zero."""
    size, around = x.shape[dim], torch.zeros_like(x.narrow(dim, 0, 1))
    steps = torch.diff(x, dim=dim, prepend=around, append=around)
    return [x, steps.narrow(dim, 0, size), steps.narrow(dim, 1, size)]


class PhasedUpBlock(nn.Module):
    """Nearest 2×, a 3×3 convolution and a gated linear unit, all on the map as it comes.

    The four pixels that one becomes, its phases, are so many channels of a 2×2 convolution. The unit is computed on
    these longer rows, and the phases find their places after it.
    """

    noise_maps = 0

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        inputs, outputs = conv.in_channels, conv.out_channels
        taps = conv.kernel.view(inputs, outputs, 2, 2, 2, 2).flip(2, 4)  # input, output, then row and phase, twice
        halves = taps.permute(3, 5, 1, 0, 2, 4).reshape(2, 2, 2, outputs // 2, inputs, 2, 2)
        weight = halves.permute(2, 0, 1, 3, 4, 5, 6).flatten(0, 3)  # values of all phases first, then their gates
        bias = conv.bias.view(2, 1, -1).expand(2, 4, -1).flatten()
        self.conv = PackedConv(weight, bias, padding=1)

    def forward(self, x: Tensor, noise: list[Tensor] | None = None, gate: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W]; gate: [B, C', 1, 1]. Returns [B, C', 2H, 2W]."""
        phases = self.phases(x).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
        whole = phases.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # one pixel too many on every side
        return gated(whole[:, 1:-1, 1:-1].permute(0, 3, 1, 2), gate)

    def phases(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, 4C', H + 1, W + 1]; the outermost row and column of pixels is one too many."""
        return fast.glu(self.conv(x))


class PhasedConv(nn.Module):
    """A 3×3 convolution to few channels, of four neighbouring pixels at once: oneDNN computes sixteen channels anyhow.

    Args:
        conv: pads by one pixel; the map's sides are even.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.edge = conv.padding_mode
        self.conv = PackedConv(_of_four(conv), None, stride=2, padding=1 if self.edge == "zeros" else 0)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, C', H, W]."""
        if self.edge != "zeros":
            x = F.pad(x, (1, 1, 1, 1), mode=self.edge)
        return F.pixel_shuffle(self.conv(x), 2)


def _of_four(conv: nn.Conv2d) -> Tensor:
    """The kernel of a 3×3 convolution for four pixels that become one: [C', C, 3, 3] to [4C', C, 4, 4]."""
    shifts = [F.pad(conv.weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    return torch.stack(shifts, dim=1).flatten(0, 1)


class PhasedEnd(nn.Module):
    """The last block, its gate and the convolution to the picture, on phases that never find their places.

    Pictures go through it one at a time, so that what one layer writes the next still finds in the cache.

    Args:
        block: the last one.
        conv: makes the picture of its map; pads by one pixel.
        tanh: whether it is bounded.
    """

    noise_maps = 0

    def __init__(self, block: PhasedUpBlock, conv: nn.Conv2d, tanh: bool):
        super().__init__()
        self.block, self.edge = block, conv.padding_mode
        weight = _of_four(conv).unflatten(3, (2, 2)).unflatten(2, (2, 2))  # two rows of two phases, and as for columns
        weight = weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.activation = "tanh" if tanh else "none"

    def forward(self, x: Tensor, noise: list[Tensor] | None = None, gate: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W]; gate: [B, C', 1, 1]. Returns [B, C'', 2H, 2W]."""
        count, _, height, width = x.shape
        pictures = x.new_empty(count, len(self.weight) // 4, height, 2, width, 2)
        for index, one in enumerate(x.split(1)):
            phases = self.block.phases(one)
            self._pad(phases)
            # A gate costs less on the kernel than on the map.
            weight = self.weight if gate is None else self.weight * gate[index].repeat(4, 1, 1)
            operator = torch.ops.mkldnn._convolution_pointwise
            picture = operator(phases, weight, None, [0, 0], [1, 1], DILATION, 1, self.activation, [], "")
            # A pixel shuffle that writes where the pictures belong.
            pictures[index] = picture[0].unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2)
        return pictures.flatten(4, 5).flatten(2, 3)

    def _pad(self, phases: Tensor) -> None:
        """Overwrite the pixels that are one too many by what the last convolution sees outside of its map."""
        pixels = phases.unflatten(1, (2, 2, -1))
        for phase, place in ((0, 0), (1, -1)):
            within = 1 - phase
            pixels[:, phase, :, :, place] = 0 if self.edge == "zeros" else pixels[:, within, :, :, place]
            pixels[:, :, phase, ..., place] = 0 if self.edge == "zeros" else pixels[:, :, within, ..., place]
