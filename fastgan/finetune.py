"""Training that starts from a model: every layer that fits is kept, and the blocks that see the picture can stay."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastgan.anchors import Anchors
from fastgan.checkpoints import checkpoints_in
from fastgan.config import ModelConfig, TrainConfig
from fastgan.errors import NO_FOLDER, UserError
from fastgan.files import (
    CHECKPOINTS,
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    GENERATOR_FILE,
    SETTINGS_FILE,
    SHARED_SETTINGS_FILE,
    TRAINING,
    WEIGHTS_FILE,
    read_json,
)
from fastgan.growing import can_enlarge, enlarge
from fastgan.hub import DTYPES, MAX_CONFIG, fetch, fetch_config, load_generator, weights_limit
from fastgan.models import Generator

MAX_DISCRIMINATOR = 2**30  # bytes; the published one at 1024 pixels has 0.1 * 2**30
FROM_TRAINING = ("recipe", "ndf")  # settings that training/config.json tells of a model's discriminator
SHOWN = 6  # names of layers in one line


class Fit(NamedTuple):
    """Which layers of a network were filled, and which were not."""

    kept: list[str]
    new: list[str]
    share: float  # of the network's numbers that were filled

    @property
    def is_nothing(self) -> bool:
        """Whether no layer fits but for single numbers, which fit anywhere."""
        return self.share < 0.001

    def __str__(self) -> str:
        if not self.new:
            return f"keeps all {len(self.kept)} layers"
        more = f" and {len(self.new) - SHOWN} more" if len(self.new) > SHOWN else ""
        return (
            f"keeps {len(self.kept)} of {len(self.kept) + len(self.new)} layers "
            f"(new: {', '.join(self.new[:SHOWN])}{more})"
        )


class Base(NamedTuple):
    """A model to start from."""

    name: str  # Hub id, or a folder's name
    revision: str | None  # the commit on the Hub; None for a folder
    config: ModelConfig
    averaged: Path  # the published generator
    raw: Path | None  # the generator as the optimizer left it
    discriminator: Path | None
    settings: dict[str, Any]  # what it was trained with, as far as that is known

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {"model": self.name, "revision": self.revision}

    def fill(self, generator: nn.Module, discriminator: nn.Module, say: Callable[[str], None]) -> bool:
        """Give both networks every layer that fits, and say which do not.

        Returns:
            Whether any layer of the discriminator did.

        Raises:
            UserError: no layer of the generator fits, or a file is damaged.
        """
        g_fit = self._fill_generator(generator, self.raw or self.averaged)
        if g_fit.is_nothing:
            mine, theirs = generator.config, self.config
            raise UserError(
                f"--init-from {self.name}: none of its layers fit (it has --ngf {theirs.ngf} --z-dim {theirs.z_dim}, "
                f"this run --ngf {mine.ngf} --z-dim {mine.z_dim})"
            )
        g_text = str(g_fit)
        if self._is_smaller(generator):
            g_text += ", which begin by enlarging its pictures"
        keeps, d_text = False, "starts anew: the model brings none"
        if self.discriminator:
            d_fit = fill(discriminator, self.discriminator)
            keeps = not d_fit.is_nothing
            d_text = str(d_fit) if keeps else "starts anew: none of its layers fit"
        where = f"{self.name}@{self.revision[:10]}" if self.revision else self.name
        say(f"Starting from {where}: the generator {g_text}; the discriminator {d_text}")
        return keeps

    def _is_smaller(self, generator: Generator) -> bool:
        """Whether a generator can begin by enlarging this one's pictures."""
        mine, config = self.config, generator.config
        factor = config.level // mine.level
        same = (factor * mine.height, factor * mine.width, mine.channels, mine.ngf, mine.z_dim)
        fits = same == (config.height, config.width, config.channels, config.ngf, config.z_dim)
        return factor > 1 and fits and can_enlarge(generator)

    def anchors(self, z_dim: int) -> Anchors | None:
        """Where pictures have their places in its latent space; None where it has none, or latents of other lengths.

        Args:
            z_dim: length of the latents of the model that it is the start of.
        """
        if not self.config.anchors or self.config.z_dim != z_dim:
            return None
        return load_generator(self.config, self.averaged).places

    def fill_averaged(self, generator: Generator) -> None:
        """Give the averaged generator every layer that fits."""
        self._fill_generator(generator, self.averaged)

    def _fill_generator(self, generator: Generator, path: Path) -> Fit:
        """Give a generator every layer of a file that fits; a larger one's new layers begin by enlarging."""
        fit = fill(generator, path)
        if self._is_smaller(generator):
            smaller = Generator(dataclasses.replace(self.config, anchors=0))  # not all files have them
            fill(smaller, path)
            double_to(generator, smaller)
        return fit


def fill(network: nn.Module, path: Path) -> Fit:
    """Give a network every layer of a safetensors file that has its name, shapes and types.

    A layer is taken whole or not at all: a convolution with spectral norm's vectors, a batch norm with its statistics.

    Raises:
        UserError: not a whole safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            kinds = {name: (tuple(x.get_shape()), DTYPES.get(x.get_dtype())) for name, x in parts.items()}
            return _fill(network, kinds, file.get_tensor)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download or save it again") from None


def fill_from(network: nn.Module, other: nn.Module) -> Fit:
    """Give a network every layer of another one that has its name, shapes and types; see :func:`fill`."""
    state = other.state_dict()
    return _fill(network, {name: (tuple(x.shape), x.dtype) for name, x in state.items()}, state.__getitem__)


def double_to(larger: Generator, smaller: Generator, batch_size: int = 8, settled: Generator | None = None) -> None:
    """Give a larger generator every layer of a smaller one that fits, and have the others begin by enlarging.

    Args:
        larger: of the smaller one's channels and width, and twice its size, or four times, or more.
        smaller: in training mode unless `settled` is given; its running statistics move.
        batch_size: see :func:`fastgan.growing.enlarge`.
        settled: the smaller one again, in training mode, with buffers made for its parameters; these move instead.
    """
    source = settled or smaller
    while smaller.config.level < larger.config.level:
        height, width = 2 * smaller.config.height, 2 * smaller.config.width
        double = larger
        if height < larger.config.height:
            double = Generator(dataclasses.replace(larger.config, height=height, width=width))
            double.to(larger.device)
            fill_from(double, larger)  # what is new in both is the same in both
        fill_from(double, smaller)
        enlarge(double, source, batch_size)
        smaller = source = double


def _fill(
    network: nn.Module, kinds: Mapping[str, tuple[tuple[int, ...], torch.dtype | None]], get: Callable[[str], Tensor]
) -> Fit:
    """Fill a network with the tensors that fit, of which `kinds` tells shapes and types and `get` gives the values."""
    state, layers = network.state_dict(), {}
    for name in state:
        layers.setdefault(_layer_of(name), []).append(name)
    fits = {name for name, mine in state.items() if kinds.get(name) == (tuple(mine.shape), mine.dtype)}
    kept = [layer for layer, members in layers.items() if fits.issuperset(members)]
    tensors = {name: get(name) for layer in kept for name in layers[layer]}
    with torch.no_grad():
        network.load_state_dict(tensors, strict=False)
    share = sum(tensor.numel() for tensor in tensors.values()) / sum(tensor.numel() for tensor in state.values())
    return Fit(kept, [layer for layer in layers if layer not in set(kept)], share)


def _layer_of(name: str) -> str:
    """The layer that a tensor belongs to: "up.8.conv1" for "up.8.conv1.parametrizations.weight.0._u"."""
    return name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def freeze_blocks(discriminator: nn.Module, count: int) -> None:
    """Stop the first `count` blocks of a discriminator from learning, from the picture inward (arXiv:2002.10964).

    Args:
        discriminator: with a method `blocks()` that lists them in this order.
        count: how many; 0 freezes nothing.

    Raises:
        UserError: it has fewer, or none that could be frozen apart.
    """
    if not count:
        return
    blocks = discriminator.blocks() if hasattr(discriminator, "blocks") else []
    if count >= len(blocks):
        most = f"at most {len(blocks) - 1}" if len(blocks) > 1 else "this recipe's discriminator has no blocks for it"
        raise UserError(f"--freeze-d {count}: {most}")
    for block in blocks[:count]:
        block.requires_grad_(False)


# ---------------------------------------------------------------------- where models are


def open_base(text: str) -> Base:
    """The model that --init-from names: a run folder, an imported model, or "user/model[@revision]" on the Hub.

    Raises:
        UserError: there is none, it is not a fastgan model, or it announces absurd sizes.
    """
    folder = Path(text).expanduser()
    if folder.is_dir():
        config = ModelConfig.from_dict(read_json(folder / CONFIG_FILE))
        if not (folder / WEIGHTS_FILE).is_file():
            raise UserError(f"--init-from {text}: no {WEIGHTS_FILE} there; name a run folder or a model folder")
        checkpoints = checkpoints_in(folder / CHECKPOINTS)
        origin = checkpoints[-1] if checkpoints else folder / TRAINING
        raw, discriminator = (
            path if path.is_file() else None for path in (origin / GENERATOR_FILE, origin / DISCRIMINATOR_FILE)
        )
        settings = [folder / name for name in (SHARED_SETTINGS_FILE, SETTINGS_FILE) if (folder / name).is_file()]
        name = folder.resolve().name
        return Base(
            name, None, config, folder / WEIGHTS_FILE, raw, discriminator, _settings(next(iter(settings), None))
        )
    model, _, revision = text.partition("@")
    config, commit = fetch_config(model, revision or None, NO_FOLDER)
    limit = weights_limit(config)
    averaged = fetch(model, WEIGHTS_FILE, limit, commit)
    if averaged is None:
        raise UserError(f"--init-from {text}: has no {WEIGHTS_FILE}; fastgan loads nothing but safetensors")
    raw = fetch(model, f"{TRAINING}/{GENERATOR_FILE}", limit, commit)
    discriminator = fetch(model, f"{TRAINING}/{DISCRIMINATOR_FILE}", MAX_DISCRIMINATOR, commit)
    settings = _settings(fetch(model, SHARED_SETTINGS_FILE, MAX_CONFIG, commit))
    return Base(model, commit, config, averaged, raw, discriminator, settings)


def _settings(path: Path | None) -> dict[str, Any]:
    """What of a model's training settings another run can take over; they come from strangers, so they are checked."""
    if path is None:
        return {}
    found = read_json(path)
    found = {name: found[name] for name in FROM_TRAINING if name in found} if isinstance(found, dict) else {}
    try:
        TrainConfig.from_dict({"dataset": "any", **found})
    except UserError:
        return {}  # of a newer version, or nonsense; the discriminator then starts as this run says
    return found


def settings_of(base: Base) -> dict[str, Any]:
    """The settings with which a run continues a model as it is, for those that nobody gives."""
    config = base.config
    size = str(config.width) if config.width == config.height else f"{config.width}x{config.height}"
    settings = {
        "size": size,
        "channels": config.channels,
        "ngf": config.ngf,
        "z_dim": config.z_dim,
        "constant": config.constant,
        "edge": config.edge,
        "output_activation": config.output_activation,
    }
    return settings | base.settings
