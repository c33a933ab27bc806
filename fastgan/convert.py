"""FastGAN checkpoints of other programs to ours, by explicit maps from their keys to our modules.

They are read as tensors and nothing else: a pickle that needs code is refused, not opened.
"""

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan.config import ModelConfig
from fastgan.ema import reestimate_batch_norm
from fastgan.errors import UserError
from fastgan.files import (
    CARD_FILE,
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    IMPORT_FILE,
    SHARED_SETTINGS_FILE,
    TRAINING,
    WEIGHTS_FILE,
    is_taken,
    write_folder,
    write_json,
)
from fastgan.hub import commit_of, fetch, save_model, save_tensors
from fastgan.models import Discriminator, Generator

# What a name in the original is called here: a pattern over its modules, and ours. The first that matches counts.
GENERATOR_NAMES = [
    (r"init\.init\.0", "first.conv"),
    (r"init\.init\.1", "first.norm"),
    (r"feat_(8|32|128|512)\.1", r"up.\1.conv1"),
    (r"feat_(8|32|128|512)\.2", r"up.\1.noise1"),
    (r"feat_(8|32|128|512)\.3", r"up.\1.norm1"),
    (r"feat_(8|32|128|512)\.5", r"up.\1.conv2"),
    (r"feat_(8|32|128|512)\.6", r"up.\1.noise2"),
    (r"feat_(8|32|128|512)\.7", r"up.\1.norm2"),
    (r"feat_(16|64|256|1024)\.1", r"up.\1.conv"),
    (r"feat_(16|64|256|1024)\.2", r"up.\1.norm"),
    (r"se_(\d+)\.main\.1", r"sle.\1.squeeze"),
    (r"se_(\d+)\.main\.3", r"sle.\1.excite"),
    (r"to_128", "to_small"),
    (r"to_big", "to_full"),
]
# The original names its discriminator blocks by what they divide 512 pixels by; ours say the level they reach.
DOWN_LEVEL = {"4": "128", "8": "64", "16": "32", "32": "16", "64": "8"}
DOWN_PART = {
    "main.0": "conv1",
    "main.1": "norm1",
    "main.3": "conv2",
    "main.4": "norm2",
    "direct.1": "direct_conv",
    "direct.2": "direct_norm",
}
DISCRIMINATOR_NAMES = [
    (r"down_from_big\.(\d)", r"stem.\1"),
    *[
        (rf"down_{old}\.{re.escape(theirs)}", f"down.{level}.{ours}")
        for old, level in DOWN_LEVEL.items()
        for theirs, ours in DOWN_PART.items()
    ],
    *[(rf"se_{int(old) // 8}_{old}\.main\.1", f"sle.{DOWN_LEVEL[old]}.squeeze") for old in ("16", "32", "64")],
    *[(rf"se_{int(old) // 8}_{old}\.main\.3", f"sle.{DOWN_LEVEL[old]}.excite") for old in ("16", "32", "64")],
    (r"rf_big\.(\d)", r"head.\1"),
    (r"down_from_small\.0", "small_stem"),
    *[(rf"down_from_small\.{n}\.main\.0", f"small_down.{level}.conv") for n, level in ((2, 32), (3, 16), (4, 8))],
    *[(rf"down_from_small\.{n}\.main\.1", f"small_down.{level}.norm") for n, level in ((2, 32), (3, 16), (4, 8))],
    (r"rf_small", "small_head"),
    *[
        (rf"decoder_{theirs}\.main\.{n}\.{i}", f"{ours}.up.{n - 1}.{part}")
        for theirs, ours in (("big", "decode_whole"), ("part", "decode_quadrant"), ("small", "decode_small"))
        for n in (1, 2, 3, 4)
        for i, part in ((1, "conv"), (2, "norm"))
    ],
    *[
        (rf"decoder_{theirs}\.main\.5", f"{ours}.to_image")
        for theirs, ours in (("big", "decode_whole"), ("part", "decode_quadrant"), ("small", "decode_small"))
    ],
]
TENSOR_NAMES = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def rename(key: str, names: list[tuple[str, str]]) -> str | None:
    """Our name for one key of an original state dict, or None where the map has none."""
    module, _, tensor = key.rpartition(".")
    for pattern, ours in names:
        match = re.fullmatch(pattern, module)
        if match:
            return f"{match.expand(ours)}.{TENSOR_NAMES.get(tensor, tensor)}"
    return None


def original_name(key: str, names: list[tuple[str, str]]) -> str:
    """The original's name for one key of our state dict: what :func:`rename` came from."""
    theirs = key
    for short, parametrized in TENSOR_NAMES.items():
        theirs = theirs.replace(parametrized, short)
    module, _, tensor = theirs.rpartition(".")
    for pattern, ours in names:
        match = re.fullmatch(ours.replace(".", r"\.").replace(r"\1", "(.+)"), module)
        if match:
            candidate = re.sub(r"\(.*?\)", lambda _, m=match: m[1], pattern).replace("\\", "")
            if rename(f"{candidate}.{tensor}", names) == key:
                return f"{candidate}.{tensor}"
    return key


def load_original(
    network: nn.Module, state: Mapping[str, Tensor], names: list[tuple[str, str]], where: str = "state dict"
) -> None:
    """Fill one of our networks from an original state dict; every tensor must find its place.

    Args:
        network: ours, on any device; on the meta device it takes copies of the tensors as its own.
        state: the tensors by the original's names, in any floating-point type.
        names: GENERATOR_NAMES or DISCRIMINATOR_NAMES.
        where: what an error message starts with.

    Raises:
        UserError: keys that the map does not know or that are missing, or a shape or kind of number that differs.
    """
    expected = network.state_dict()
    found = {rename(key, names): key for key in state}
    unknown = [key for key in state if rename(key, names) not in expected]
    missing = [original_name(key, names) for key in expected if key not in found]
    if missing or unknown:
        raise _unknown_layout(where, missing, unknown)
    renamed = {}
    for ours, tensor in expected.items():
        key = found[ours]
        theirs = state[key]
        if theirs.shape != tensor.shape or theirs.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{where}: {key} is {_describe(theirs)}, the other tensors call for {_describe(tensor)}")
        renamed[ours] = theirs.detach().to(tensor.dtype).clone(memory_format=torch.contiguous_format)
    network.load_state_dict(renamed, strict=True, assign=next(iter(expected.values())).is_meta)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _unknown_layout(where: str, missing: Sequence[str], unknown: Sequence[str]) -> UserError:
    parts = []
    for word, keys in (("missing", missing), ("unknown", unknown)):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            parts.append(f"{word} {', '.join(keys[:4])}{more}")
    return UserError(f"{where}: not a FastGAN layout that fastgan knows: {'; '.join(parts)}")


# ---------------------------------------------------------------------- files of other programs

MAX_CARD = 1_000_000  # bytes
MAX_DOWNLOAD = 8 * 2**30  # bytes; an original checkpoint at full width, with its optimizers, stays below 2 GiB

# Wrappers that programs leave before every key, and the newer spelling of spectral norm.
PREFIX = r"^(?:module\.|_orig_mod\.)+"
PARAMETRIZED = [
    (r"\.parametrizations\.weight\.original$", ".weight_orig"),
    (r"\.parametrizations\.weight\.0\._([uv])$", r".weight_\1"),
]
# Programs that renamed the original's modules: what they call a key, and what the original does.
RENAMED = {
    "huggan/fastgan-few-shot": [
        (r"_init\._layers\.0\._conv\.(.+)", r"init.init.0.\1"),
        (r"_init\._layers\.1\.(.+)", r"init.init.1.\1"),
        (r"_upsample_(\d+)\._layers\.(\d+)\._weight", r"feat_\1.\2.weight"),
        (r"_upsample_(\d+)\._layers\.(\d+)\.(?:_conv\.)?(.+)", r"feat_\1.\2.\3"),
        (r"_sle_(\d+)\._layers\.([13])\._conv\.(.+)", r"se_\1.main.\2.\3"),
        (r"_out_128\.0\._conv\.(.+)", r"to_128.\1"),
        (r"_out_1024\.0\._conv\.(.+)", r"to_big.\1"),
    ],
    "gantrain": [
        (r"init\.main\.(.+)", r"init.init.\1"),
        (r"se_(\d+)\.gate\.([13])\.(.+)", r"se_\1.main.\2.\3"),
        (r"to_small\.(.+)", r"to_128.\1"),
    ],
}
# The order in which the original's generator declares its modules, for files that keep keys in another.
DECLARED = "init feat_8 feat_16 feat_32 feat_64 feat_128 feat_256 se_64 se_128 se_256 to_128 to_big".split()
DECLARED += "feat_512 se_512 feat_1024".split()


class Checkpoint(NamedTuple):
    """What a file holds, under the original's names."""

    layout: str  # whose it is
    raw: dict[str, Tensor] | None  # the generator as it trained, or the only one there is
    averaged: dict[str, Tensor] | None  # with the moving average of its parameters
    discriminator: dict[str, Tensor] | None
    settings: Mapping[str, Any]  # what the program kept beside the weights


def read_checkpoint(path: Path) -> Checkpoint:
    """The networks in a file of the original trainer, or of a program whose networks are the same.

    Raises:
        UserError: it is another architecture's, needs code to be opened, is not whole, or has an unknown layout.
    """
    name = path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if path.suffix == ".h5" or head.startswith(b"\x89HDF"):
        raise UserError(f"{name}: an HDF5 file, as nnabla's SLE-GAN writes it; fastgan does not read these")
    if path.suffix == ".pkl":
        raise UserError(
            f"{name}: a .pkl as projected-gan and StyleGAN write it, which is code as much as weights; "
            "fastgan never opens these"
        )
    if head[8:9] == b"{":
        content = _read_safetensors(path)
    elif head.startswith((b"PK", b"\x80")):
        content = _read_torch(path)
    else:
        raise UserError(f"{name}: neither a PyTorch checkpoint nor safetensors; was it downloaded whole?")
    return unpack(content, name, size)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The content of a safetensors file, with the parts g, d and g_ema as dicts or a list again."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.name}: not a whole safetensors file ({error}); download it again") from None
    if {key.partition(".")[0] for key in tensors} - {"g", "d", "g_ema", "opt_g", "opt_d"}:
        return tensors
    parts: dict[str, Any] = {}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    averaged = parts.get("g_ema", {})
    if averaged and all(key.isdecimal() for key in averaged):
        parts["g_ema"] = [averaged[key] for key in sorted(averaged, key=int)]
    if "g" in parts:  # safetensors sorts its keys, a list of parameters needs them as declared
        parts["g"] = dict(sorted(parts["g"].items(), key=lambda item: _declared(item[0])))
    return parts


def _declared(key: str) -> tuple:
    """Sorts the keys of an original generator as the original declares them."""
    first, *rest = re.sub(PREFIX, "", key).split(".")
    return (
        DECLARED.index(first) if first in DECLARED else len(DECLARED),
        [int(part) for part in rest if part.isdecimal()],
        rest[-1:] == ["bias"],
    )


def _read_torch(path: Path) -> Any:
    """The tensors, dicts, lists and numbers in a file of torch.save; nothing that needs code."""
    name = path.name
    not_whole = UserError(f"{name}: not a whole PyTorch checkpoint; download it again")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise UserError(f"{name}: a compressed archive, which torch.save never writes; not opened")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{name}: holds more than tensors (it asks for {wanted[1]}), and fastgan never opens a pickle that "
                "could run code; ask for the bare state dict, or safetensors"
            ) from None
        raise not_whole from None
    except Exception:  # a damaged file makes the reader fail in any way
        raise not_whole from None


def unpack(content: Any, name: str, size: int) -> Checkpoint:
    """What a file's content stands for, under the original's names.

    Args:
        content: as read from the file.
        name: of the file, for messages.
        size: of the file in bytes; tensors that claim more are refused.

    Raises:
        UserError: another architecture, or an unknown layout.
    """
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{name}: holds no named tensors, so no FastGAN")
    first_parts = {key.partition(".")[0] for key in content}
    if first_parts & {"GAN", "GE", "D_aug"} or {"G", "D"} <= first_parts:
        raise UserError(
            f"{name}: a lightweight-gan model, which is another architecture than FastGAN; fastgan can't draw with it"
        )
    if first_parts & {"synthesis", "mapping", "G_ema"}:
        raise UserError(
            f"{name}: a projected-gan or StyleGAN model, which is another generator than FastGAN's; "
            "fastgan can't draw with it"
        )
    whole = "g" in content or "g_ema" in content
    parts = content if whole else {"g": content}
    names, raw, averaged, discriminator = "original", None, None, None
    if "g" in parts:
        names, raw = _original_keys(parts["g"], f"{name}: g" if whole else name, size)
    if isinstance(parts.get("g_ema"), Mapping):
        names, averaged = _original_keys(parts["g_ema"], f"{name}: g_ema", size)
    elif "g_ema" in parts:
        averaged = _with_parameters(raw, parts["g_ema"], f"{name}: g_ema", size)
    if "d" in parts:
        _, discriminator = _original_keys(parts["d"], f"{name}: d", size)
    settings = parts.get("config") if whole else None
    layout = {"original": "original FastGAN trainer" if whole else "original FastGAN generator"}.get(names, names)
    return Checkpoint(layout, raw, averaged, discriminator, settings if isinstance(settings, Mapping) else {})


def _original_keys(state: Any, where: str, size: int) -> tuple[str, dict[str, Tensor]]:
    """Whose names a state dict's keys are, and the state dict in the original's."""
    if not isinstance(state, Mapping):
        raise UserError(f"{where}: expected a state dict, found {type(state).__name__}")
    _check_tensors(state, where, size)
    program, original = "original", {}
    for key, tensor in state.items():
        key = re.sub(PREFIX, "", key)
        for pattern, name in PARAMETRIZED:
            key = re.sub(pattern, name, key)
        for candidate, patterns in RENAMED.items():
            for pattern, name in patterns:
                if match := re.fullmatch(pattern, key):
                    program, key = candidate, match.expand(name)
                    break
        if key in original:
            raise UserError(f"{where}: has {key} twice, under two spellings")
        original[key] = tensor
    return program, original


def _with_parameters(raw: dict[str, Tensor] | None, averaged: Any, where: str, size: int) -> dict[str, Tensor]:
    """The generator with other parameters, given as the original does: a list in the order of `parameters()`."""
    if raw is None:
        raise UserError(f"{where}: holds averaged parameters only; the generator they belong to, g, is missing")
    if not isinstance(averaged, Sequence):
        raise UserError(f"{where}: expected a list of tensors beside g, found {type(averaged).__name__}")
    _check_tensors(dict(enumerate(averaged)), where, size)
    keys = [key for key in raw if key.endswith((".weight", ".weight_orig", ".bias"))]
    if len(keys) != len(averaged):
        raise UserError(f"{where}: {len(averaged)} tensors for the {len(keys)} parameters of g")
    for position, (key, tensor) in enumerate(zip(keys, averaged, strict=True)):
        if tensor.shape != raw[key].shape:
            raise UserError(f"{where}[{position}] is {_describe(tensor)}, g's {key} is {_describe(raw[key])}")
    return {**raw, **dict(zip(keys, averaged, strict=True))}


def _check_tensors(tensors: Mapping[Any, Any], where: str, size: int) -> None:
    """Raise a UserError unless all values are ordinary tensors that together fit a file of this many bytes."""
    for key, tensor in tensors.items():
        plain = isinstance(tensor, Tensor) and tensor.device.type == "cpu" and tensor.layout == torch.strided
        if not plain or tensor.is_quantized:
            raise UserError(f"{where}: {key} is no ordinary tensor ({type(tensor).__name__})")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > size:
        raise UserError(f"{where}: its tensors claim more numbers than the file holds; not opened further")
    for key, tensor in tensors.items():  # which takes memory, so not before
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{where}: {key} holds numbers that are not finite; its training had failed by then")


def infer_config(state: Mapping[str, Tensor], where: str = "state dict") -> ModelConfig:
    """The config that an original generator's shapes tell, within the bounds of any other.

    Raises:
        UserError: the tensors that tell it are missing, or a value is out of bounds.
    """
    first, last = state.get("init.init.0.weight_orig"), state.get("to_big.weight_orig")
    if first is None or last is None:
        missing = [key for key in ("init.init.0.weight_orig", "to_big.weight_orig") if key not in state]
        raise _unknown_layout(where, missing, [key for key in state if rename(key, GENERATOR_NAMES) is None])
    if first.ndim != 4 or first.shape[1] % 32 or last.ndim != 4:
        raise UserError(f"{where}: init.init.0.weight_orig is {_describe(first)}, expected [z_dim, 32 ngf, 4, 4]")
    level = max([int(match[1]) for key in state if (match := re.match(r"feat_(\d{1,4})\.", key))], default=256)
    activation = "tanh" if level >= 1024 else "none"  # as published
    try:
        return ModelConfig(
            height=level,
            width=level,
            channels=last.shape[0],
            z_dim=first.shape[0],
            ngf=first.shape[1] // 32,
            output_activation=activation,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_settings(settings: Mapping[str, Any], config: ModelConfig, where: str) -> None:
    """Raise a UserError if gantrain's settings ask for what the published networks don't have."""
    size = settings.get("im_size", config.level)
    for key, value in (("im_size", config.level), ("nz", config.z_dim), ("ngf", config.ngf)):
        if settings.get(key, value) != value:
            raise UserError(f"{where}: its config says {key} {settings[key]!r}, its tensors say {value}")
    for key, published in (("im_width", size), ("pixelshuffle_from", 0), ("mapping_depth", 0)):
        if settings.get(key) and settings[key] != published:
            raise UserError(f"{where}: trained with {key} {settings[key]!r}, which FastGAN's networks don't have")


# ---------------------------------------------------------------------- fastgan import


class Imported(NamedTuple):
    """What was written: the generator's config, the facts of import.json, files by name, remarks for a person."""

    config: ModelConfig
    facts: dict[str, Any]
    files: list[str]
    remarks: list[str]


def import_checkpoint(
    source: str,
    out: Path,
    *,
    weights: str | None = None,
    reestimate: bool = False,
    license: str | None = None,
    revision: str | None = None,
) -> Imported:
    """Write a FastGAN checkpoint of another program as one of our model folders.

    The folder gets config.json and model.safetensors, training/discriminator.safetensors when the checkpoint has
    one, with the settings that fit it in training/config.json, and import.json: source (a Hub id with its file, or a
    file's name), commit on the Hub, sha256, license, layout, weights, and whether batch-norm statistics were measured
    afresh.

    Args:
        source: a file, or a file on the Hub like "user/repo:all_50000.pth".
        out: a folder that is not there yet, or empty.
        weights: "ema" or "raw"; the averaged ones where the file has them when not given.
        reestimate: measure batch-norm statistics afresh; the file's are kept otherwise.
        license: of the source; the one its card on the Hub states when not given.
        revision: branch, tag or commit on the Hub.

    Raises:
        UserError: the source can't be had or read, is no FastGAN, or the folder can't be written.
    """
    if is_taken(out):
        raise UserError(f"{out}: already there; choose a new folder")
    path, origin = _fetch(source, revision)
    checkpoint = read_checkpoint(path)
    name = path.name
    if weights == "ema" and checkpoint.averaged is None:
        raise UserError(f"--weights ema: {name} has no g_ema; leave the flag out to take the weights it has")
    if weights == "raw" and checkpoint.raw is None:
        raise UserError(f"--weights raw: {name} has averaged weights only; leave the flag out")
    averaged = checkpoint.averaged is not None and weights != "raw"
    state = checkpoint.averaged if averaged else checkpoint.raw
    config = infer_config(state, name)
    _check_settings(checkpoint.settings, config, name)
    with torch.device("meta"):
        generator = Generator(config)
    load_original(generator, state, GENERATOR_NAMES, name)
    if reestimate:
        reestimate_batch_norm(generator)
    files, remarks, discriminator = [CONFIG_FILE, WEIGHTS_FILE, IMPORT_FILE], [], None
    if checkpoint.discriminator is not None:
        try:
            discriminator = _discriminator(config, checkpoint.discriminator, f"{name}: d")
            files += [f"{TRAINING}/{DISCRIMINATOR_FILE}", SHARED_SETTINGS_FILE]
        except UserError as error:
            remarks.append(f"The discriminator was left out: {error}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        **origin,
        "sha256": digest,
        "license": license or origin["license"],
        "layout": checkpoint.layout,
        "weights": "ema" if averaged else "raw" if checkpoint.averaged is not None else "as stored",
        "batch_norm_reestimated": reestimate,
    }

    def write(folder: Path) -> None:
        save_model(generator, folder)
        if discriminator is not None:
            (folder / TRAINING).mkdir()
            save_tensors(discriminator.state_dict(), folder / TRAINING / DISCRIMINATOR_FILE)
            write_json(folder / SHARED_SETTINGS_FILE, {"recipe": "paper", "ndf": discriminator.ndf})
        write_json(folder / IMPORT_FILE, facts)

    write_folder(out, write)
    if not reestimate:
        remarks.append(
            "If colours look shifted, its batch-norm statistics belong to other weights: "
            "import again with --reestimate-batch-norm"
        )
    if facts["license"] == "unknown":
        remarks.append("Its licence is unknown: ask the author before you share it, and import with --license")
    return Imported(config, facts, files, remarks)


def _discriminator(config: ModelConfig, state: Mapping[str, Tensor], where: str) -> Discriminator:
    head = state.get("rf_big.0.weight_orig")
    if head is None:
        raise _unknown_layout(where, ["rf_big.0.weight_orig"], list(state))
    ndf, rest = divmod(head.shape[0], 16) if head.ndim == 4 else (0, 0)
    if rest or not 1 <= ndf <= 512:
        raise UserError(f"{where}: rf_big.0.weight_orig is {_describe(head)}, expected [16 ndf, 8 ndf, 1, 1]")
    with torch.device("meta"):
        discriminator = Discriminator(config, ndf)
    load_original(discriminator, state, DISCRIMINATOR_NAMES, where)
    return discriminator


def _fetch(source: str, revision: str | None) -> tuple[Path, dict[str, str]]:
    """The file that a source names, and what import.json says of where it is from."""
    if Path(source).is_file():
        return Path(source), {"source": Path(source).name, "license": "unknown"}
    if Path(source).is_dir():
        raise UserError(f"{source}: a folder; name the checkpoint file in it")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+):([^:]+)", source)
    if not match:
        raise UserError(f"{source}: no such file, nor a file on the Hub like user/repo:all_50000.pth")
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id
    from yaml import YAMLError

    repo, file = match.groups()
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"{source}: {repo} is no Hub id like user/repo") from None
    path = fetch(repo, file, MAX_DOWNLOAD, revision, where=source)
    if path is None:
        raise UserError(f"{source}: the model has no file {file}")
    commit = commit_of(path, file)
    try:
        card = fetch(repo, CARD_FILE, MAX_CARD, commit)
        stated = ModelCard.load(card).data.get("license") if card else None
    except (ValueError, YAMLError):  # too large, or without readable metadata
        stated = None
    return path, {"source": source, "revision": commit, "license": _license_text(stated)}


def _license_text(stated: Any) -> str:
    """What a stranger's card says of its licence; "unknown" unless that is a few plain words."""
    words = stated if isinstance(stated, list) else [stated]
    if not stated or len(words) > 10 or not all(isinstance(word, str | int | float) for word in words):
        return "unknown"
    return ", ".join(str(word)[:100] for word in words)
