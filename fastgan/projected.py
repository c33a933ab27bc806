"""A discriminator that looks through a frozen ImageNet network (arXiv:2111.01007), and at the pixels beside it."""

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.config import ModelConfig
from fastgan.fast import channels_last, norm_leaky_relu
from fastgan.features import FeatureNetwork, load_features
from fastgan.layers import average_pool, spectral_norm
from fastgan.models import downscale

MIXED = 64  # channels of every mixed map
PIXEL = 32  # width of the branch that looks at pixels
TOLD_AT = 128  # pixels: the size at which anchors are found
LOOK_AT = 256  # pixels: pictures are shown to the frozen network at about this size, small ones doubled
STRIDES = (4, 8, 16, 32)  # of the frozen network's maps


class Features(NamedTuple):
    """What a frozen network sees in pictures: its maps at strides 4, 8, 16 and 32, and the same mixed."""

    plain: list[Tensor]  # [B, C, h, w] each, C differing
    mixed: list[Tensor]  # [B, 64, h, w] each


class MixedFeatures(nn.Module):
    """A picture as four maps of a frozen network, mixed across channels and scales by fixed random weights.

    Mixing keeps a discriminator from resting on the few channels that tell most (arXiv:2111.01007, sec. 3.2). The
    weights follow from a seed of their own, so nothing here is trained or saved.
    """

    def __init__(self):
        super().__init__()
        self.network = load_features("efficientnet-lite0")
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.across_channels = nn.ModuleList(nn.Conv2d(n, MIXED, 1) for n in self.network.channels)
            self.across_scales = nn.ModuleList(nn.Conv2d(MIXED, MIXED, 3, padding=1) for _ in self.network.channels)
            for layer in (*self.across_channels, *self.across_scales):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        """Features of pictures in [-1, 1], [B, C, H, W]."""
        maps = self.network(as_looked_at(images))
        mixed: list[Tensor] = []
        for i in reversed(range(len(maps))):  # from the coarsest to the finest, each with what is above it
            x = self.across_channels[i](maps[i])
            if mixed:
                x = x + F.interpolate(mixed[0], size=x.shape[2:], mode="bilinear", align_corners=False)
            mixed.insert(0, self.across_scales[i](x))
        return Features(maps, mixed)


def as_looked_at(images: Tensor, at: int = LOOK_AT) -> Tensor:
    """Pictures at the size at which the frozen network sees them, [B, C, H, W].

    It knows edges and surfaces from larger pictures. Doubled, a small one's flaws are as large to it as they are to
    people, who enlarge it, and to the networks that measure.

    Args:
        images: [B, C, H, W] in [-1, 1].
        at: their shorter side in pixels, or half of that where they are smaller still.
    """
    side = min(images.shape[2:])
    if side < at:
        return F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    return downscale(images, side // at)


def summaries(maps: list[Tensor], images: Tensor) -> list[Tensor]:
    """Views of pictures, one vector [B, D] each: roughly what is where, and what is in them at all.

    Args:
        maps: of a frozen network, [B, C, h, w] each, from the finest to the coarsest.
        images: the same pictures, [B, 1 or 3, H, W].
    """
    coarse = [x.float() for x in maps[1:]]
    views = [average_pool(x, 4) for x in coarse]
    views += [average_pool(maps[0].float(), 8), average_pool(images.float(), 16)]
    return [x.flatten(1) for x in views] + contents(maps)


def contents(maps: list[Tensor]) -> list[Tensor]:
    """Views that tell what is in pictures, wherever it is, [B, C] each; `maps` as for :func:`summaries`."""
    return [x.float().mean((2, 3)) for x in maps[1:]]


def told_of(images: Tensor, network: FeatureNetwork) -> list[Tensor]:
    """What anchors of pictures are made from: the views of :func:`contents`.

    Anchors stand for pictures, not for how these are moved, what colours they lie on or what size they have when they
    are judged.

    Args:
        images: as they are, [B, C, H, W] in [-1, 1].
        network: that of :class:`MixedFeatures`.
    """
    if images.shape[1] == 4:
        images = on_colours(images, images.new_zeros(1, 3, 1, 1))
    return contents(network(as_looked_at(images, TOLD_AT)))


def energy_distance(drawn: list[Tensor], real: list[Tensor]) -> Tensor:
    """How far two sets of vectors are apart as distributions, but for a term of the real ones, which has no gradient.

    Twice the mean distance from drawn to real, less the mean distance among the drawn (Székely and Rizzo 2013), which
    falls when the drawn come nearer to the real and when they differ more: pictures that are all alike can't be near
    the real ones. Every view counts in units of its own distance from drawn to real.

    Args:
        drawn, real: views of pictures, [B, D] each, as from :func:`summaries`; at least two pictures drawn.

    Returns:
        A number with gradients for `drawn`: the mean over views.
    """
    # The exact way for few pictures has no gradient on MPS in every PyTorch.
    how = "use_mm_for_euclid_dist" if drawn[0].device.type == "mps" else "use_mm_for_euclid_dist_if_necessary"
    total = drawn[0].new_zeros(())
    for x, y in zip(drawn, real, strict=True):
        between = torch.cdist(x, y, compute_mode=how).mean()
        apart = torch.cdist(x, x, compute_mode=how)
        among = (apart.sum() - apart.diagonal().sum()) / (len(x) * (len(x) - 1))
        total = total + (2 * between - among) / between.detach()
    return total / len(drawn)


def paired_distance(drawn: list[Tensor], real: list[Tensor], known: list[Tensor]) -> Tensor:
    """How far drawn pictures are from the real ones that they are to be.

    Args:
        drawn, real: views of pictures, [B, D] each, as from :func:`summaries`; the first of one belongs to the first
            of the other.
        known: views of real pictures, [N, D] each: how far these are from the drawn ones on average is the unit.

    Returns:
        A number with gradients for `drawn`: the mean over pictures and views.
    """
    total = drawn[0].new_zeros(())
    for x, y, others in zip(drawn, real, known, strict=True):
        total = total + F.pairwise_distance(x, y).mean() / torch.cdist(x.detach(), others).mean()
    return total / len(drawn)


def on_colours(images: Tensor, colours: Tensor) -> Tensor:
    """Pictures with transparency, [B, 4, H, W] with straight alpha in [-1, 1], laid on colours: [B, 3, H, W].

    Args:
        colours: of each picture, or one for all, [B or 1, 3, 1, 1] in [-1, 1].
    """
    opacity = ((images[:, 3:] + 1) / 2).clamp(0, 1)
    return torch.lerp(colours, images[:, :3], opacity)


class HeadBlock(nn.Module):
    """Half the resolution: [B, C, H, W] to [B, C', H/2, W/2]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False))
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return norm_leaky_relu(self.norm, self.conv(x))


class ProjectedDiscriminator(nn.Module):
    """One head per scale of the mixed features, and a patch discriminator on the pixels.

    The heads know what things are and where they are, the patches how their surface looks. A scale whose map is
    smaller than 4×4 has no head: the finer ones see the whole of so small a picture.

    Args:
        config: of the generator it teaches: size and channels.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = nn.ModuleList()
        side = min(2 * config.level, LOOK_AT)
        for stride in STRIDES:
            if side // stride >= 4:
                self.heads.append(self._head(side // stride))
        widths = [3 if config.channels != 1 else 1, PIXEL, 2 * PIXEL, 4 * PIXEL, 8 * PIXEL]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.pixels = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))

    def blocks(self) -> list[nn.ModuleList]:
        """Its layers from the picture inward, those of all branches at one depth together; their last left out."""
        branches = (*self.heads, self.pixels)
        paths = [[layer for layer in branch if list(layer.parameters())] for branch in branches]
        depth = max(map(len, paths)) - 1
        return [nn.ModuleList(path[i] for path in paths if i < len(path) - 1) for i in range(depth)]

    @staticmethod
    def _head(side: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        channels, wider = MIXED, MIXED
        while side > 4:
            layers.append(HeadBlock(channels, wider))
            channels, wider, side = wider, min(128, 2 * wider), side // 2
        layers += [spectral_norm(nn.Conv2d(channels, 128, 3, 1, 1)), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, spectral_norm(nn.Conv2d(128, 1, 4, 1, 1)))

    def forward(self, maps: list[Tensor], images: Tensor) -> list[Tensor]:
        """Judge pictures.

        Args:
            maps: the mixed ones of :class:`MixedFeatures`.
            images: the same pictures in [-1, 1], [B, 1 or 3, H, W].

        Returns:
            Logits of each head and of the pixels, higher is more real, [B, K] each.
        """
        logits = [head(x) for head, x in zip(self.heads, maps, strict=False)]
        logits.append(self.pixels(channels_last(images)))
        return [x.flatten(1) for x in logits]
