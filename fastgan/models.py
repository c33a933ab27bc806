"""FastGAN's two networks, wired by resolution (arXiv:2101.04775).

A *level* names a map by the side it would have in a square picture: level 4 is the base grid, level R the picture.
Where the picture is not square the map at level r is r/4 times the base grid.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fastgan.anchors import SPREAD, Anchors, around
from fastgan.config import ModelConfig
from fastgan.fast import channels_last
from fastgan.layers import (
    Decoder,
    DownBlock,
    FirstBlock,
    NoisyUpBlock,
    ResidualDownBlock,
    SkipLayerExcitation,
    UpBlock,
    batch_norm,
    conv,
)

GENERATOR_WIDTH = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4, 1024: 1 / 8, 2048: 1 / 16}
DISCRIMINATOR_WIDTH = {8: 8, 16: 4, 32: 2, 64: 1, 128: 1 / 2, 256: 1 / 4, 512: 1 / 8, 1024: 1 / 16}
SMALL_WIDTH = {8: 4, 16: 2, 32: 1, 64: 1 / 2}  # the branch that looks at the small picture


class Images(NamedTuple):
    """A batch of pictures, full-size [B, C, H, W] and small, as G draws them and D reads them.

    Where a generator is for drawing only (:func:`fastgan.folding.folded`), it leaves out the small ones.
    """

    full: Tensor
    small: Tensor | None


class Logits(NamedTuple):
    """How real D finds each patch, higher is more real: [B, 1, h, w] from the full and the small branch."""

    full: Tensor
    small: Tensor


class Reconstructions(NamedTuple):
    """Real pictures as D's decoders redraw them, in [-1, 1]: the whole, one quadrant, the small branch's whole."""

    whole: Tensor
    quadrant: Tensor
    small: Tensor


def downscale(images: Tensor, factor: int) -> Tensor:
    """The pictures at 1/factor of their side, each pixel the mean of a square: no aliasing."""
    return F.avg_pool2d(images, factor) if factor > 1 else images


def quadrant_of(x: Tensor, quadrant: int) -> Tensor:
    """One quarter of a map or picture: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    row, column = divmod(quadrant, 2)
    return x[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]


class Generator(nn.Module):
    """Draws pictures from latents, with style mixing through the skip-layer excitation gates.

    Args:
        config: size, channels and widths; see :class:`fastgan.config.ModelConfig`.

    Attributes:
        anchors: places in the latent space that seeds' latents lie around, [config.anchors, config.anchor_dim]; None
            where these are anywhere. :meth:`forward` draws any others, too.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width = {level: max(1, int(config.ngf * GENERATOR_WIDTH[level])) for level in config.levels}
        self.first = FirstBlock(config.z_dim, width[4], config.grid, config.constant)
        self.up = nn.ModuleDict()
        for level in config.levels[1:]:
            # Every second doubling, from the first on, has two convolutions and noise.
            block = NoisyUpBlock if level.bit_length() % 2 == 0 else UpBlock
            self.up[str(level)] = block(width[level // 2], width[level])
        self.sle = nn.ModuleDict(
            {str(level): SkipLayerExcitation(width[level // 16], width[level]) for level in config.gates}
        )
        self.to_small = conv(width[config.small_level], config.channels, 1)
        self.to_full = conv(width[config.level], config.channels, 3, padding=1, edge=config.edge)
        self.bound = nn.Tanh() if config.output_activation == "tanh" else nn.Identity()
        anchors, numbers, views = config.anchors, config.anchor_dim, config.anchor_views
        self.register_buffer("anchors", torch.zeros(anchors, numbers) if anchors else None)
        # How a picture's own is found: whoever trains on goes on from there.
        self.register_buffer("anchor_mean", torch.zeros(views) if anchors else None)
        self.register_buffer("anchor_axes", torch.zeros(views, numbers) if anchors else None)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike, **options: Any) -> "Generator":
        """The generator in a local folder or on the Hub, in eval mode; as :func:`fastgan.hub.from_pretrained`."""
        # huggingface_hub's model mixin is left aside: it would fall back to a pickle, drop what it does not know in a
        # config, load weights that do not match, and write its own card over one on the Hub.
        from fastgan import hub  # it imports this module

        return hub.from_pretrained(model, **options)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write config.json and model.safetensors into a folder, for :meth:`from_pretrained` to read."""
        from fastgan import hub

        hub.save_model(self, Path(folder))

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Put the generator on the Hub, with a card, in one commit. Returns the address of its page.

        Args:
            repo: Hub id; made, and private, where it is not there yet.
            options: public, revision, message and license, as of :func:`fastgan.publish.push`.
        """
        from fastgan import publish

        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            self.save_pretrained(folder)
            return publish.push(Path(folder), repo, **options).url

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are, and what it computes in."""
        return next(self.parameters()).dtype

    def sample(
        self,
        seeds: Iterable[int],
        psi: float = 1.0,
        style_seeds: Iterable[int] | None = None,
        style_strength: float | Mapping[int, float] = 1.0,
        batch_size: int = 8,
    ) -> list[Image.Image]:
        """One picture per seed, drawn as in eval mode; the same seed is the same picture in any batch.

        Args:
            seeds: whole numbers from 0 to 2**32 - 1.
            psi: truncation: 1 is off, lower is less varied with fewer accidents.
            style_seeds: as many seeds that drive the gates instead (style mixing).
            style_strength: as in :meth:`forward`.
            batch_size: pictures at a time on a GPU and in half precision.

        Raises:
            UserError: a value is out of range, there is no such gate, or the seeds do not pair up.
        """
        from fastgan import sampling  # it imports this module

        drawn = sampling.sample(self, seeds, psi, style_seeds, style_strength, batch_size)
        return [sampling.to_pil(image) for batch in drawn for image in batch]

    def latents(self, count: int) -> Tensor:
        """Latents at random, distributed as those of seeds are, [count, Z] on its device."""
        z = torch.randn(count, self.config.z_dim, device=self.device, dtype=self.dtype)
        if self.anchors is None:
            return z
        chosen = torch.randint(len(self.anchors), (count,), device=self.device)
        return around(self.anchors[chosen], z, self.config.spread)

    @property
    def places(self) -> Anchors | None:
        """Where pictures have their places in its latent space, in single precision; None where it has no anchors."""
        if self.anchors is None:
            return None
        return Anchors(self.anchor_mean.float(), self.anchor_axes.float(), self.anchors.float())

    def anchored(self, anchors: Anchors, spread: float = SPREAD) -> "Generator":
        """The same generator, sharing all its tensors, whose seeds' latents lie around anchors, in eval mode.

        Args:
            anchors: of pictures; they tell as many numbers as a latent has at most.
            spread: as of :func:`fastgan.anchors.around`.
        """
        (count, numbers), views = anchors.seen.shape, len(anchors.mean)
        sizes = {"anchors": count, "anchor_dim": numbers, "anchor_views": views, "spread": spread}
        with torch.device("meta"):
            other = Generator(dataclasses.replace(self.config, **sizes))
        parts = {"anchors": anchors.seen, "anchor_mean": anchors.mean, "anchor_axes": anchors.axes}
        parts = {name: part.to(self.device, self.dtype) for name, part in parts.items()}
        other.load_state_dict({**self.state_dict(), **parts}, assign=True)
        return other.eval().requires_grad_(False)

    def noise_sizes(self) -> list[tuple[int, int]]:
        """Height and width of every noise map the network adds, in the order it adds them."""
        return [self.config.size_at(int(level)) for level, block in self.up.items() for _ in range(block.noise_maps)]

    def forward(
        self,
        z: Tensor,
        style_z: Tensor | None = None,
        style_strength: float | Mapping[int, float | Tensor] = 1.0,
        noise: list[Tensor] | None = None,
    ) -> Images:
        """Draw one picture per latent.

        Args:
            z: latents, standard normal, [B, Z], or as of :meth:`latents`: what the main path runs on.
            style_z: latents, [B, Z], that drive the gates instead of z (style mixing).
            style_strength: 0 keeps the gates of z, 1 takes those of style_z; one number for all gates, or one per
                gate level (64, 128, 256, 512), where a level that is missing keeps z's.
            noise: one map [B, 1, h, w] per entry of :meth:`noise_sizes`; drawn afresh when not given.

        Returns:
            Images in about [-1, 1] (exactly so with a tanh output).
        """
        if noise is None:
            noise = [torch.randn(len(z), 1, *size, device=z.device) for size in self.noise_sizes()]
        noise_at, position = {}, 0
        for level, block in self.up.items():
            noise_at[int(level)] = noise[position : position + block.noise_maps]
            position += block.noise_maps

        maps = self._gate_sources(z, noise_at)
        style_maps = {} if style_z is None else self._gate_sources(style_z, noise_at)

        last_source = max(maps)
        x = maps[last_source]
        small = None
        for level in self.config.levels:
            if level > last_source:
                gate = self._gate(level, maps, style_maps, style_strength) if level in self.config.gates else None
                x = self.up[str(level)](x, noise_at[level], gate)
            if level == self.config.small_level and self.to_small is not None:
                small = self.bound(self.to_small(x))
        return Images(self.bound(self.to_full(x)), small)

    def _gate_sources(self, z: Tensor, noise_at: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
        """The maps that gates look at, by level, from the base grid up."""
        maps = {4: channels_last(self.first(z))}
        for gate in self.config.gates[1:]:
            level = gate // 16
            maps[level] = self.up[str(level)](maps[level // 2], noise_at[level])
        return maps

    def _gate(
        self, level: int, maps: dict, style_maps: dict, strength: float | Mapping[int, float | Tensor]
    ) -> Tensor:
        gate = self.sle[str(level)](maps[level // 16])
        amount = strength.get(level, 0.0) if isinstance(strength, Mapping) else strength
        if style_maps and (isinstance(amount, Tensor) or amount):
            gate = torch.lerp(gate, self.sle[str(level)](style_maps[level // 16]), amount)
        return gate


FastGANGenerator = Generator  # its name where other generators are about


def parameters_of(config: ModelConfig) -> str:
    """How many parameters such a generator has, in words."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Generator(config).parameters())
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


class Discriminator(nn.Module):
    """Tells real pictures from drawn ones, patch by patch, and redraws real ones from what it saw.

    Args:
        config: of the generator it teaches: size and channels.
        ndf: width; 64 as published.
    """

    def __init__(self, config: ModelConfig, ndf: int = 64):
        super().__init__()
        self.config, self.ndf = config, ndf
        start = min(config.level, 256)  # the stem brings larger pictures to this level first
        levels = [level for level in (256, 128, 64, 32, 16, 8) if level <= start]
        width = {level: max(1, int(ndf * share)) for level, share in DISCRIMINATOR_WIDTH.items()}

        self.stem = self._stem(config, width, start)
        self.down = nn.ModuleDict({str(r): ResidualDownBlock(width[2 * r], width[r]) for r in levels[1:]})
        self.sle = nn.ModuleDict(
            {str(r): SkipLayerExcitation(width[8 * r], width[r]) for r in (32, 16, 8) if 8 * r in levels}
        )
        self.head = nn.Sequential(
            conv(width[8], 16 * ndf, 1), batch_norm(16 * ndf), nn.LeakyReLU(0.2), conv(16 * ndf, 1, 4)
        )

        small_levels = [level for level in (64, 32, 16, 8) if level <= config.small_level // 2]
        small = {level: max(1, int(ndf * share)) for level, share in SMALL_WIDTH.items()}
        self.small_stem = conv(config.channels, small[small_levels[0]], 4, stride=2, padding=1)
        self.small_down = nn.ModuleDict({str(r): DownBlock(small[2 * r], small[r]) for r in small_levels[1:]})
        self.small_head = conv(small[8], 1, 4)

        doublings = (min(config.level, 128) // 8).bit_length() - 1
        self.decode_whole = Decoder(width[8], config.channels, doublings)
        self.decode_quadrant = Decoder(width[16], config.channels, doublings)
        self.decode_small = Decoder(small[8], config.channels, doublings)

    def blocks(self) -> list[nn.ModuleList]:
        """Its parts from the picture inward, those of both branches that work at one depth together."""
        levels = list(self.down)
        small = [self.small_down[level] for level in self.small_down]
        deeper = [[self.down[level], *small[i : i + 1]] for i, level in enumerate(levels)]
        return [nn.ModuleList(parts) for parts in ([self.stem, self.small_stem], *deeper)]

    @staticmethod
    def _stem(config: ModelConfig, width: Mapping[int, int], start: int) -> nn.Sequential:
        if config.level == start:
            return nn.Sequential(conv(config.channels, width[start], 3, padding=1), nn.LeakyReLU(0.2))
        level = config.level // 2
        layers = [conv(config.channels, width[level], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        while level > start:
            level //= 2
            layers += [
                conv(width[2 * level], width[level], 4, stride=2, padding=1),
                batch_norm(width[level]),
                nn.LeakyReLU(0.2),
            ]
        return nn.Sequential(*layers)

    def forward(self, images: Images, quadrant: int | None = None) -> tuple[Logits, Reconstructions | None]:
        """Judge pictures; with a quadrant (0 to 3, see :func:`quadrant_of`), redraw them too.

        Args:
            images: in [-1, 1], the full size and the small one.
            quadrant: which quarter of the level-16 map the quadrant decoder gets; None leaves the decoders out.

        Returns:
            Logits, 5×5 for square pictures, and the decoders' pictures or None.
        """
        images = Images(*map(channels_last, images))
        x = self.stem(images.full)
        maps = {min(self.config.level, 256): x}
        for level, block in self.down.items():
            x = block(x)
            if level in self.sle:
                x = x * self.sle[level](maps[8 * int(level)])
            maps[int(level)] = x

        small = F.leaky_relu(self.small_stem(images.small), 0.2)
        for block in self.small_down.values():
            small = block(small)

        logits = Logits(self.head(x), self.small_head(small))
        if quadrant is None:
            return logits, None
        return logits, Reconstructions(
            self.decode_whole(x), self.decode_quadrant(quadrant_of(maps[16], quadrant)), self.decode_small(small)
        )
