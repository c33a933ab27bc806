"""The parts that both networks are built from (arXiv:2101.04775, sec. 3)."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.fast import double_conv, glu, norm_glu, norm_leaky_relu

CONSTANT = 0.5  # how strong a learned constant starts, beside a latent's normalised map


class SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, kept up with by one power iteration each time it is computed
    in training mode.

    It keeps the names and the meaning of PyTorch's own parametrization (arXiv:1802.05957), reads the weight a third
    less often, and starts without work where the weight is still to come (on the meta device).

    Args:
        weight: what is to be normalised.
        dim: its dimension of outputs, the rows of the matrix whose singular value is meant.
    """

    def __init__(self, weight: Tensor, dim: int = 0):
        super().__init__()
        self.dim = dim
        matrix = self._matrix(weight.detach())
        u, v = (torch.empty(side, dtype=weight.dtype, device=weight.device) for side in matrix.shape)
        if not weight.is_meta:
            u.normal_()
            for _ in range(15):  # as PyTorch's own begins
                v = F.normalize(matrix.T @ F.normalize(u, dim=0), dim=0)
                u = F.normalize(matrix @ v, dim=0)
        self.register_buffer("_u", u)
        self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight; in training mode `_u` and `_v` move on."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = self._matrix(weight)
            if self.training:
                with torch.no_grad():
                    self._v.copy_(F.normalize(matrix.T @ self._u, dim=0))
            image = matrix @ self._v.clone()
            if self.training:
                self._u.copy_(F.normalize(image.detach(), dim=0))
            return weight / (self._u.clone() @ image)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, self.dim).flatten(1)


def spectral_norm(layer: nn.Module) -> nn.Module:
    """The convolution, or transposed convolution, with its weight spectrally normalised."""
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight, dim), unsafe=True)


def drawn(weight: Tensor, mean: float = 0.0, std: float = 0.02) -> None:
    """Fill a weight from N(mean, std²), unless it is only a shape (on the meta device)."""
    if not weight.is_meta:
        nn.init.normal_(weight, mean, std)


class EdgedConv2d(nn.Conv2d):
    """A convolution with stride 1 that pads a map's edge at its own precision.

    Autocast on a CPU would take the whole map to single precision for that, and the padded one back.
    """

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = self.padding
        with torch.autocast(x.device.type, enabled=False):
            x = F.pad(x, (horizontal, horizontal, vertical, vertical), mode=self.padding_mode)
        return F.conv2d(x, self.weight, self.bias)


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, edge: str = "zeros"
) -> nn.Module:
    """A spectrally normalised convolution without bias, drawn from N(0, 0.02²); `edge` is PyTorch's padding mode."""
    kind = nn.Conv2d if edge == "zeros" else EdgedConv2d
    layer = kind(in_channels, out_channels, kernel, stride, padding, bias=False, padding_mode=edge)
    drawn(layer.weight)
    return spectral_norm(layer)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation whose scale starts at N(1, 0.02²), as DCGAN does (arXiv:1511.06434)."""
    layer = nn.BatchNorm2d(channels)
    drawn(layer.weight, 1.0)
    return layer


class NoiseInjection(nn.Module):
    """Adds one noise map to all channels with a learned strength that starts at 0 (arXiv:1812.04948)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x: [B, C, H, W]; noise: [B, 1, H, W], standard normal."""
        return x + (self.weight * noise).to(x.dtype)  # or single precision would spread through a half-precision map


def average_pool(x: Tensor, side: int) -> Tensor:
    """Adaptive average pooling, [B, C, h, w] to [B, C, side, side].

    MPS has it only where a side is a multiple of the result's, so elsewhere it is two products with matrices there.
    """
    if x.device.type != "mps" or not (x.shape[2] % side or x.shape[3] % side):
        return F.adaptive_avg_pool2d(x, side)
    return pool_by_matrices(x, side)


def pool_by_matrices(x: Tensor, side: int) -> Tensor:
    """The same as :func:`average_pool`, for sides that are no multiples."""
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(length)[None], side)[0].to(x.device, x.dtype) for length in x.shape[2:]
    )  # [h, side] and [w, side]
    return rows.T @ x @ columns


class SkipLayerExcitation(nn.Module):
    """Gates in (0, 1), one per channel of a larger map, from a smaller one (arXiv:2101.04775, sec. 3.1)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.squeeze = conv(in_channels, out_channels, 4)
        self.excite = conv(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, h, w]. Returns [B, C', 1, 1]."""
        return torch.sigmoid(self.excite(F.silu(self.squeeze(average_pool(x, 4)))))


class FirstBlock(nn.Module):
    """The latent as the first feature map: [B, Z] to [B, C, h, w], h by w the base grid.

    Args:
        z_dim: Z.
        channels: C.
        grid: h and w.
        constant: add a learned map that is the same for all latents. Without one, where things are can only come from
            a latent that is zero on average, and a generator takes long to learn what all pictures share.
    """

    def __init__(self, z_dim: int, channels: int, grid: tuple[int, int], constant: bool = False):
        super().__init__()
        layer = nn.ConvTranspose2d(z_dim, 2 * channels, grid, bias=False)
        drawn(layer.weight)
        self.conv = spectral_norm(layer)
        self.norm = batch_norm(2 * channels)
        self.constant = None
        if constant:
            self.constant = nn.Parameter(torch.empty(2 * channels, *grid))
            drawn(self.constant, std=CONSTANT)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv(z[:, :, None, None])
        if self.constant is None:
            return norm_glu(self.norm, x)
        return glu(self.norm(x) + self.constant.to(x.dtype))


def gated(x: Tensor, gate: Tensor | None) -> Tensor:
    """A map [B, C, H, W] times what :class:`SkipLayerExcitation` makes, [B, C, 1, 1]; as it is where there is none."""
    return x if gate is None else x * gate


class UpBlock(nn.Module):
    """Twice the resolution by one convolution: [B, C, H, W] to [B, C', 2H, 2W]."""

    noise_maps = 0

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = conv(in_channels, 2 * out_channels, 3, padding=1)
        self.norm = batch_norm(2 * out_channels)

    def forward(self, x: Tensor, noise: list[Tensor] | None = None, gate: Tensor | None = None) -> Tensor:
        return gated(norm_glu(self.norm, double_conv(x, self.conv)), gate)


class NoisyUpBlock(nn.Module):
    """Twice the resolution by two convolutions with noise after each: [B, C, H, W] to [B, C', 2H, 2W]."""

    noise_maps = 2

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = conv(in_channels, 2 * out_channels, 3, padding=1)
        self.noise1 = NoiseInjection()
        self.norm1 = batch_norm(2 * out_channels)
        self.conv2 = conv(out_channels, 2 * out_channels, 3, padding=1)
        self.noise2 = NoiseInjection()
        self.norm2 = batch_norm(2 * out_channels)

    def forward(self, x: Tensor, noise: list[Tensor], gate: Tensor | None = None) -> Tensor:
        first, second = noise
        x = norm_glu(self.norm1, self.noise1(double_conv(x, self.conv1), first))
        return gated(norm_glu(self.norm2, self.noise2(self.conv2(x), second)), gate)


class DownBlock(nn.Module):
    """Half the resolution by one strided convolution: [B, C, H, W] to [B, C', H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = conv(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return norm_leaky_relu(self.norm, self.conv(x))


class ResidualDownBlock(nn.Module):
    """Half the resolution, the mean of a two-convolution path and a pooled one: [B, C, H, W] to [B, C', H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 4, stride=2, padding=1)
        self.norm1 = batch_norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1)
        self.norm2 = batch_norm(out_channels)
        self.direct_conv = conv(in_channels, out_channels, 1)
        self.direct_norm = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        main = norm_leaky_relu(self.norm1, self.conv1(x))
        main = norm_leaky_relu(self.norm2, self.conv2(main))
        direct = norm_leaky_relu(self.direct_norm, self.direct_conv(F.avg_pool2d(x, 2)))
        return (main + direct) / 2


class Decoder(nn.Module):
    """A picture in [-1, 1] redrawn from a feature map of the discriminator (arXiv:2101.04775, sec. 3.2).

    Args:
        in_channels: channels of the feature map.
        channels: channels of the picture.
        doublings: how many times the picture is as large as the map, as a power of two.
    """

    widths = (128, 64, 64, 32)  # after each doubling; they do not follow ndf

    def __init__(self, in_channels: int, channels: int, doublings: int):
        super().__init__()
        widths = (in_channels, *self.widths[:doublings])
        self.up = nn.ModuleList(UpBlock(a, b) for a, b in itertools.pairwise(widths))
        self.to_image = conv(widths[-1], channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.up:
            x = block(x)
        return torch.tanh(self.to_image(x))
