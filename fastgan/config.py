"""Every setting, declared once: default, unit, help and check live together. Standard library only."""

import dataclasses
import glob
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fastgan.errors import UserError

FORMAT_VERSION = 1  # of config.json beside the weights
MAX_ASPECT = 4  # longest side over shortest
LATER = {"constant", "edge", "anchors", "anchor_dim", "anchor_views", "spread"}  # not in the first configs
GATE_LEVELS = (64, 128, 256, 512)  # where skip-layer excitation acts; the map that drives it is 16 times smaller
UNIONS = (types.UnionType, typing.Union)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from "256" or from width x height as in "256x384"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise UserError(f'--size: expected a number like 256, or width x height like 256x384, got "{text}"')
    width, height = int(parts[0]), int(parts[-1])
    return height, width


def check_size(height: int, width: int) -> None:
    """Raise a UserError unless the networks can draw pictures of this height and width in pixels."""
    short, long = sorted((height, width))
    if short & (short - 1) or not 32 <= short <= 2048:
        raise UserError(
            f"size {width}x{height}: the shorter side must be a power of two from 32 to 2048; "
            f"the nearest is {min((2**n for n in range(5, 12)), key=lambda side: abs(side - short))}"
        )
    step = short // 4
    if long % step or long > MAX_ASPECT * short:
        raise UserError(
            f"size {width}x{height}: the longer side must be a multiple of {step} (a quarter of the shorter) "
            f"and at most {MAX_ASPECT * short}"
        )


@dataclass(frozen=True)
class ModelConfig:
    """What the generator is: enough to build it, and checked before anything is built.

    Raises:
        UserError: a value is outside its bounds.
    """

    height: int = 256  # pixels
    width: int = 256  # pixels; the shorter side is a power of two from 32 to 2048
    channels: int = 3  # 1 grey, 3 RGB, 4 RGBA
    z_dim: int = 256  # length of the latent
    ngf: int = 64  # width: channels at level 128
    output_activation: str = "none"  # "tanh" for pictures that can't leave [-1, 1]: white is white
    constant: bool = False  # a learned map beside the latent at the base grid; not as published
    edge: str = "zeros"  # what the last convolution sees outside of its map; "replicate" draws no frame
    anchors: int = 0  # how many places in the latent space seeds' latents lie around; 0, and they are anywhere
    anchor_dim: int = 0  # how many of a latent's numbers such a place tells
    anchor_views: int = 0  # how many numbers about a picture its own place is found from
    spread: float = 1.0  # standard deviation around it; latents have one of 1 in all

    def __post_init__(self):
        bounds = [("height", 0, 8192), ("width", 0, 8192), ("z_dim", 1, 4096), ("ngf", 1, 512)]
        some = 1 if self.anchors else 0
        bounds += [("anchors", 0, 4096), ("anchor_dim", some, self.z_dim), ("anchor_views", some, 4096)]
        for name, low, high in bounds:
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UserError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")
        if type(self.channels) is not int or self.channels not in (1, 3, 4):
            raise UserError(f"channels: expected 1 (grey), 3 (RGB) or 4 (RGBA), got {self.channels!r}")
        if self.output_activation not in ("none", "tanh"):
            raise UserError(f'output_activation: expected "none" or "tanh", got {self.output_activation!r}')
        if self.edge not in ("zeros", "replicate"):
            raise UserError(f'edge: expected "zeros" or "replicate", got {self.edge!r}')
        if type(self.constant) is not bool:
            raise UserError(f"constant: expected true or false, got {self.constant!r}")
        if type(self.spread) not in (int, float) or not 0 <= self.spread <= 1:
            raise UserError(f"spread: expected a number from 0 to 1, got {self.spread!r}")
        check_size(self.height, self.width)

    @property
    def level(self) -> int:
        """The level of the finished picture: its shorter side."""
        return min(self.height, self.width)

    @property
    def levels(self) -> list[int]:
        """Every level the generator passes through, from 4 to that of the picture."""
        return [2**n for n in range(2, self.level.bit_length())]

    @property
    def gates(self) -> list[int]:
        """The levels at which skip-layer excitation acts; none below 64 pixels."""
        return [level for level in GATE_LEVELS if level <= self.level]

    @property
    def small_level(self) -> int:
        """The level of the auxiliary output: 128, or half the picture's up to 128 pixels."""
        return 128 if self.level > 128 else self.level // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the first feature map: 4 by 4 for square pictures."""
        return self.size_at(4)

    def size_at(self, level: int) -> tuple[int, int]:
        """Height and width of a map at a level."""
        return self.height * level // self.level, self.width * level // self.level

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        return {"library": "fastgan", "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Any) -> "ModelConfig":
        """The config that :meth:`to_dict` wrote.

        Raises:
            UserError: another library's config, a newer format, an unknown field, or a value out of bounds.
        """
        if not isinstance(values, dict) or values.get("library") != "fastgan":
            raise UserError('config.json: not a fastgan model (no "library": "fastgan")')
        if values.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"config.json: format {values.get('format_version')!r}, this version of fastgan reads "
                f"{FORMAT_VERSION}; try a newer fastgan"
            )
        fields = {name: value for name, value in values.items() if name not in ("library", "format_version")}
        names = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - names):
            raise UserError(f"config.json: unknown field {', '.join(unknown)}")
        if missing := sorted(names - set(fields) - LATER):
            raise UserError(f"config.json: missing field {', '.join(missing)}")
        return cls(**fields)


GROUPS = {  # of settings, as --help and a run's report list them
    "data": "The pictures",
    "recipe": "How it learns",
    "start": "Where it starts",
    "length": "How long (the first limit reached ends the run)",
    "run": "The run",
    "hub": "The Hub",
}


def setting(default: Any, group: str, help: str, **more: Any) -> Any:
    """A field of TrainConfig with its help, its group and its checks.

    Args:
        default: its value when it is not given.
        group: key of `GROUPS`.
        help: one line.
        more: choices; metavar; within, its least and its largest value; interval, whether it is one like "10min";
            resumable, whether a resumed run may have another value, as it changes nothing that is learned or another
            machine may need it; local, whether it means nothing on another machine; before, what runs did that don't
            name it, as it came later.
    """
    return field(default=default, metadata={"group": group, "help": help, **more})


def preset(projected: Any, paper: Any, help: str, **more: Any) -> Any:
    """A :func:`setting` whose default is the recipe's: None at first, filled in when the config is made."""
    return setting(None, "recipe", help, projected=projected, paper=paper, **more)


def interval(default: str, help: str) -> Any:
    """A :func:`setting` that says how often something is done."""
    return setting(default, "run", help, metavar="10min|5kimg|never", interval=True, resumable=True)


def is_here(source: str) -> bool:
    """Whether a dataset's name is that of a file or folder on this disk."""
    return os.path.exists(os.path.expanduser(source))  # also False for names that no file could have


def is_pattern(source: str) -> bool:
    """Whether a dataset's name stands for all files that match it."""
    return glob.has_magic(source) and not is_here(source)


def parse_every(text: str) -> tuple[float, str]:
    """Number and unit of an interval such as "10min" or "5kimg"; "never" is (inf, "kimg")."""
    if text == "never":
        return float("inf"), "kimg"
    for unit in ("kimg", "min"):
        number = text.removesuffix(unit)
        try:
            if number != text and float(number) > 0:
                return float(number), unit
        except ValueError:
            pass
    raise UserError(f'expected an interval like 10min, 5kimg or never, got "{text}"')


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on.

    Raises:
        UserError: a value is outside its bounds; the message names the flag.
    """

    dataset: str = setting(
        "", "data", "Hub id, folder, .zip, .parquet or saved dataset", metavar="USER/NAME|PATH", resumable=True
    )
    dataset_config: str | None = setting(None, "data", "configuration of a Hub dataset")
    split: str = setting("train", "data", "split to train on")
    revision: str | None = setting(None, "data", "branch, tag or commit of a Hub dataset")
    image_column: str | None = setting(None, "data", "column with the pictures; detected if there is only one")
    size: str = setting("256", "data", "pixels: a power of two from 32 to 2048, or WIDTHxHEIGHT like 256x384")
    channels: int = setting(3, "data", "1 grey, 3 RGB, 4 RGBA with real transparency", choices=(1, 3, 4))
    fit: Literal["crop", "pad", "stretch"] = setting("crop", "data", "how a picture of another shape becomes this one")
    background: str = setting("white", "data", "colour behind transparent or padded pictures")
    flip: bool = setting(True, "data", "mirror half of the pictures; --no-flip for text and logos")
    streaming: bool = setting(False, "data", "read while training, for sets that do not fit on this disk")
    cache_dir: str | None = setting(None, "data", "where prepared pictures are kept", resumable=True, local=True)

    recipe: Literal["projected", "paper"] = setting(
        "projected", "recipe", "preset of the settings below: projected learns quickest, paper is FastGAN as published"
    )
    ngf: int = preset(32, 64, "generator width")
    ndf: int = setting(64, "recipe", "discriminator width; paper only", within=(1, 512))
    z_dim: int = preset(32, 256, "length of the latent; a short one is learned sooner")
    constant: bool = preset(True, False, "a learned map beside the latent, for what all pictures share")
    edge: Literal["zeros", "replicate"] = preset(
        "replicate", "zeros", "what the last convolution sees outside of its map; zeros draw a frame"
    )
    output_activation: Literal["none", "tanh", "published"] = preset(
        "tanh", "published", "after the last convolution; tanh lets white be white; published has it from 1024 px on"
    )
    batch_size: int = setting(
        8, "recipe", "pictures per optimizer step, over all processes and accumulated parts", within=(2, 65536)
    )
    accumulate: int = setting(
        1,
        "recipe",
        "parts a batch is split into to save memory; batch norm sees one part",
        within=(1, 4096),
        resumable=True,
    )
    learning_rate: float = preset(
        4e-4, 2e-4, "Adam's learning rate, for networks without one of their own", within=(1e-12, 1.0)
    )
    g_learning_rate: float | None = setting(None, "recipe", "the generator's learning rate", within=(1e-12, 1.0))
    d_learning_rate: float | None = preset(2e-4, None, "the discriminator's learning rate", within=(1e-12, 1.0))
    beta1: float = preset(0.0, 0.5, "Adam's beta1", within=(0.0, 0.9999))
    beta2: float = preset(0.99, 0.999, "Adam's beta2", within=(0.0, 0.999999))
    augment: str = preset(
        "translation", "color,translation", "DiffAugment: any of color, translation, cutout; or none"
    )
    cutout: float = preset(0.2, 0.5, "side of the cut-out square, as a share of the picture's", within=(0.0, 1.0))
    energy_weight: float = setting(
        16.0,
        "recipe",
        "weight of the energy distance beside the adversarial loss; 0 is off; projected only",
        within=(0, 10_000),
    )
    anchor_weight: float = setting(
        8.0,
        "recipe",
        "weight of the distance from real pictures to what is drawn at their anchors; 0: no anchors; projected only",
        within=(0, 10_000),
        before=0.0,
    )
    perceptual: Literal["efficientnet-lite0", "lpips-vgg"] = setting(
        "efficientnet-lite0", "recipe", "compares reconstructions; lpips-vgg is fetched when first used; paper only"
    )
    reconstruction_weight: float = setting(
        8.0,
        "recipe",
        "weight of the reconstruction loss beside the hinge loss; 0 is off; paper only",
        within=(0, 10_000),
    )
    grow_from: int = preset(
        128,
        0,
        "pixels of the first pictures, which double up to --size; the last third of a run is full size; 0 is off",
    )
    ema_half_life_kimg: float = preset(
        1.0, 5.5, "half-life of the averaged generator; 5.5 is 0.999 a step at batch 8", within=(1e-6, 10**6)
    )
    ema_warmup: float = preset(
        0.05, 0.0, "the half-life is at most this share of the pictures seen; 0 is off", within=(0.0, 1.0)
    )

    init_from: str | None = setting(
        None,
        "start",
        "model to start from; its recipe, size and architecture are the defaults",
        metavar="USER/MODEL[@REV]|RUN",
    )
    freeze_d: int = setting(
        0, "start", "blocks of the discriminator, from the picture inward, that stay as they are", within=(0, 1000)
    )

    duration_kimg: float = setting(
        400.0,
        "length",
        "thousands of real pictures shown to D; 400 is 50,000 paper steps",
        within=(1e-6, 10**9),
        resumable=True,
    )
    max_steps: int | None = setting(
        None, "length", "stop after this many optimizer steps", within=(1, 10**12), resumable=True
    )
    max_minutes: float | None = setting(
        None, "length", "stop after this long, with everything saved", within=(0.001, 10**6), resumable=True
    )

    output_dir: str | None = setting(None, "run", "run folder; runs/<dataset> when not given", local=True)
    seed: int = setting(0, "run", "seed of everything random in the run", within=(0, 2**31 - 1))
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = setting(
        "auto",
        "run",
        "auto is accelerate's own setting, or else bf16 where this device is faster with it",
        resumable=True,
    )
    fast: bool = setting(True, "run", "the same arithmetic in forms that cost less; --no-fast for the plain ones")
    log_every: str = interval("0.1min", "how often log.jsonl gets a line and the progress is shown")
    sample_every: str = interval("2min", "how often a grid of samples is drawn")
    eval_every: str = interval("5min", "how often KID, recall and coverage are measured; keeps the best")
    checkpoint_every: str = interval("10min", "how often a checkpoint is saved")
    keep_checkpoints: int = setting(
        2, "run", "how many of the newest checkpoints stay, besides the best model", within=(1, 10**6), resumable=True
    )
    eval_images: int = setting(
        200, "run", "pictures drawn for each evaluation; 0 is off", within=(0, 100_000), resumable=True
    )
    eval_network: Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "inception"] = setting(
        "efficientnet-lite1", "run", "whose features it looks through; one that teaches the model would flatter it"
    )
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = setting(
        "none", "run", "a tracker besides log.jsonl", resumable=True
    )

    push_to_hub: str | None = setting(
        None, "hub", "repository for the model; created if missing", metavar="USER/NAME", resumable=True, local=True
    )
    hub_public: bool = setting(False, "hub", "make it public; private otherwise", resumable=True, local=True)
    hub_strategy: Literal["end", "every_save"] = setting(
        "end", "hub", "push at the end, or at every checkpoint too", resumable=True, local=True
    )
    hub_license: str | None = setting(
        None,
        "hub",
        "licence that the card states, such as mit or cc-by-4.0",
        metavar="NAME",
        resumable=True,
        local=True,
    )

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if isinstance(value := getattr(self, f.name), os.PathLike):
                object.__setattr__(self, f.name, os.fspath(value))
        if type(self.size) is int:
            object.__setattr__(self, "size", str(self.size))
        if not isinstance(self.dataset, str) or not self.dataset:
            raise UserError("--dataset: which pictures? Give a Hub id like user/pokemon, or a folder")
        if is_here(self.dataset) or is_pattern(self.dataset):  # still found from another folder
            object.__setattr__(self, "dataset", os.path.abspath(os.path.expanduser(self.dataset)))
        check_kind("--recipe", self.recipe, str)
        for f in dataclasses.fields(self):
            if getattr(self, f.name) is None and self.recipe in f.metadata:
                object.__setattr__(self, f.name, f.metadata[self.recipe])
        for f in dataclasses.fields(self):
            choices = f.metadata.get("choices") or choices_of(f.type)
            value = getattr(self, f.name)
            if choices and value is not None and value not in choices:
                raise UserError(f"{flag(f.name)}: expected one of {', '.join(map(str, choices))}, got {value!r}")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            check_kind(flag(f.name), value, f.type)
            low, high = f.metadata.get("within", (None, None))
            if low is not None and value is not None and not low <= value <= high:
                raise UserError(f"{flag(f.name)}: expected a number from {low} to {high}, got {value}")
            if f.metadata.get("interval"):
                try:
                    parse_every(value)
                except UserError as error:
                    raise UserError(f"{flag(f.name)}: {error}") from None
        if 0 < self.eval_images < 6:
            raise UserError(f"--eval-images: expected at least 6, or 0 for off, got {self.eval_images}")
        if unknown := set(self.augmentations) - {"color", "translation", "cutout"}:
            raise UserError(
                f"--augment: expected color, translation, cutout or none, got {', '.join(sorted(unknown))}"
            )
        if self.grow_from and (self.grow_from & (self.grow_from - 1) or not 32 <= self.grow_from <= 2048):
            raise UserError(
                f"--grow-from: expected a power of two from 32 to 2048, or 0 for off, got {self.grow_from}"
            )
        if self.batch_size % self.accumulate or self.batch_size // self.accumulate < 2:
            raise UserError(
                f"--accumulate {self.accumulate}: must divide --batch-size {self.batch_size} into parts of at least 2"
            )
        size = parse_size(self.size)
        try:
            check_size(*size)
            self.model  # noqa: B018 — builds and so checks the model's own settings
        except UserError as error:
            name, colon, rest = str(error).partition(":")
            raise UserError(f"{flag(name)}{colon}{rest}") from None

    @property
    def model(self) -> ModelConfig:
        """The generator this run trains."""
        height, width = parse_size(self.size)
        activation = self.output_activation
        if activation == "published":
            activation = "tanh" if min(height, width) >= 1024 else "none"
        return ModelConfig(
            height=height,
            width=width,
            channels=self.channels,
            z_dim=self.z_dim,
            ngf=self.ngf,
            output_activation=activation,
            constant=self.constant,
            edge=self.edge,
        )

    @property
    def levels(self) -> list[int]:
        """The shorter sides at which it trains, one after the other; a run that starts from a model has one."""
        full = self.model.level
        first = full if self.init_from or not self.grow_from else min(self.grow_from, full)
        return [2**n for n in range(first.bit_length() - 1, full.bit_length())]

    def at_level(self, level: int) -> "TrainConfig":
        """The same settings for pictures whose shorter side is `level`."""
        height, width = self.model.size_at(level)
        return dataclasses.replace(self, size=f"{width}x{height}", output_activation=self.model.output_activation)

    @property
    def augmentations(self) -> list[str]:
        """The parts of DiffAugment that are on, in the order they are applied."""
        return [] if self.augment in ("", "none") else [part.strip() for part in self.augment.split(",")]

    @property
    def teachers(self) -> list[str]:
        """The feature networks that the model learns from, and whose figures therefore flatter it."""
        if self.recipe == "projected":
            return ["efficientnet-lite0"]
        return [self.perceptual] if self.reconstruction_weight else []

    def check_use(self) -> None:
        """Raise a UserError where a setting would do nothing. For what was just typed: saved runs may have such."""
        if not self.push_to_hub and (self.hub_public or self.hub_license or self.hub_strategy != "end"):
            raise UserError("--hub-public, --hub-license and --hub-strategy say how to push; give --push-to-hub too")
        if self.freeze_d and not self.init_from:
            raise UserError(f"--freeze-d {self.freeze_d}: keeps what a model has learned; give --init-from MODEL too")

    def to_dict(self) -> dict[str, Any]:
        """What train_config.json holds."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "config") -> "TrainConfig":
        """The config from a dict such as :meth:`to_dict` gives; missing settings take their defaults.

        Raises:
            UserError: an unknown setting, a value of the wrong type or out of bounds.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if not isinstance(values, Mapping):
            raise UserError(f"{where}: expected a JSON object of settings")
        if unknown := sorted(set(values) - set(fields)):
            raise UserError(f"{where}: unknown setting {', '.join(unknown)}")
        values = dict(values)
        if type(values.get("size")) is int:
            values["size"] = str(values["size"])
        for name, value in values.items():
            check_kind(f"{where}: {name}", value, fields[name].type)
        return cls(**values)

    @classmethod
    def of_run(cls, values: Mapping[str, Any], where: str) -> "TrainConfig":
        """The config that a run wrote down; what came later than the run is as it was before.

        Raises:
            UserError: as :meth:`from_dict`.
        """
        before = {f.name: f.metadata["before"] for f in dataclasses.fields(cls) if "before" in f.metadata}
        return cls.from_dict({**before, **values} if isinstance(values, Mapping) else values, where)

    @classmethod
    def starting_from(cls, model: str, **settings: Any) -> "TrainConfig":
        """The config of a run that starts from a model; its recipe, size and architecture, where they are not given.

        Args:
            model: a run folder, a model folder, or "user/model[@revision]" on the Hub.
            settings: as of this class; dataset must be there.

        Raises:
            UserError: there is no such model, or as :meth:`from_dict`.
        """
        from fastgan.finetune import open_base, settings_of  # which needs what training needs

        return cls.from_dict({**settings_of(open_base(model)), **settings, "init_from": model}, "flags")


OF_DATASET = frozenset({"dataset_config", "split", "image_column", "revision"})  # which part of it, and of when
OF_HUB = frozenset({"hub_public", "hub_license", "hub_strategy"})  # how to push, if anything is pushed
LOCAL = frozenset(f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("local"))
RESUMABLE = frozenset(f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("resumable"))


def flag(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def check_kind(name: str, value: Any, annotation: Any) -> None:
    """Raise a UserError that begins with `name` unless the value is of a class that its annotation allows."""
    kinds = kinds_of(annotation)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UserError(f"{name}: expected {expected}, got {value!r}")


def choices_of(annotation: Any) -> tuple:
    """The values a Literal annotation allows, None aside; empty for any other annotation."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in UNIONS else (annotation,)
    return tuple(value for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part))


def kinds_of(annotation: Any) -> tuple[type, ...]:
    """The classes that a value of this annotation may have; a whole number is fine where a float is meant."""
    if typing.get_origin(annotation) in UNIONS:
        return tuple(kind for part in typing.get_args(annotation) for kind in kinds_of(part))
    if typing.get_origin(annotation) is Literal:
        return (str,)
    return (float, int) if annotation is float else (annotation,)
