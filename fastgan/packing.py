"""Convolutions for drawing only, whose weights lie in memory as a CPU's oneDNN reads them.

PyTorch otherwise brings every weight into that order anew for each batch, which takes as long as the arithmetic where
maps are small and weights are large.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan import fast
from fastgan.layers import NoisyUpBlock
from fastgan.models import Generator

DILATION = [1, 1]
OPERATORS = (
    "_convolution_pointwise",
    "_convolution_transpose_pointwise",
    "_reorder_convolution_weight",
    "_reorder_convolution_transpose_weight",
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
    for level, block in generator.up.items():
        if isinstance(block, NoisyUpBlock):
            block.conv1, block.conv2 = PackedDoubling(block.conv1), PackedConv.of(block.conv2)
        elif fast.is_narrow(block.conv.weight.dtype, block.conv.out_channels // 2):
            generator.up[level] = PhasedUpBlock(block.conv)
        else:
            block.conv = PackedDoubling(block.conv)
    for gate in generator.sle.values():
        gate.squeeze, gate.excite = PackedConv.of(gate.squeeze), PackedConv.of(gate.excite)
    generator.to_small = PackedConv.of(generator.to_small)
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
        count, _, _, width = x.shape
        if count == 1 or width >= fast.SMALLEST:
            return self._doubled(x)
        # oneDNN goes by rows, and short ones cost as much as longer ones: all maps as one, with a gap between them.
        row = F.pad(x.permute(2, 0, 3, 1), (0, 0, 0, 1)).flatten(1, 2).permute(2, 0, 1)
        parts = self._doubled(row[None])[0].unflatten(2, (count, -1))[..., : 2 * width]
        return parts.permute(2, 0, 1, 3).contiguous(memory_format=torch.channels_last)

    def _doubled(self, x: Tensor) -> Tensor:
        operator = torch.ops.mkldnn._convolution_transpose_pointwise
        return operator(x, self.packed, self.bias, *self.fixed, 1, "none", [], "")


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

    def forward(self, x: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """x: [B, C, H, W]. Returns [B, C', 2H, 2W]."""
        phases = fast.glu(self.conv(x)).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
        whole = phases.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # one pixel too many on every side
        return whole[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class PhasedConv(nn.Module):
    """A 3×3 convolution to few channels, of four neighbouring pixels at once: oneDNN computes sixteen channels anyhow.

    Args:
        conv: pads by one pixel; the map's sides are even.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.edge = conv.padding_mode
        shifts = [F.pad(conv.weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
        weight = torch.stack(shifts, dim=1).flatten(0, 1)
        self.conv = PackedConv(weight, None, stride=2, padding=1 if self.edge == "zeros" else 0)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, H, W]. Returns [B, C', H, W]."""
        if self.edge != "zeros":
            x = F.pad(x, (1, 1, 1, 1), mode=self.edge)
        return F.pixel_shuffle(self.conv(x), 2)
