"""Models as folders, on this machine and on the Hub: written whole, checked before they are read."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fastgan.config import ModelConfig
from fastgan.errors import NO_FOLDER, UserError
from fastgan.files import CONFIG_FILE, WEIGHTS_FILE, let_all_read, read_json, write_file, write_json
from fastgan.models import Generator

MAX_CONFIG = 100_000  # bytes
PASSING = {408, 429, 500, 502, 503, 504}  # answers of the Hub after which the same request may well succeed
SILENCE = 100  # seconds that the Hub may take to answer
DTYPES = {"F32": torch.float32, "I64": torch.int64}


def limit_silence() -> None:
    """Have the Hub's client give up on a Hub that takes a request and never answers; by itself it waits for ever."""
    from huggingface_hub import get_session

    client = get_session()
    if client.timeout.read is None:  # not one of the caller's own
        client.timeout = SILENCE


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, copied to the CPU first."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
    let_all_read(path)  # safetensors leaves a file that nobody else may read


def save_model(generator: Generator, folder: Path) -> None:
    """Write config.json and model.safetensors, in single precision, into a folder, each whole or not at all."""
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in generator.state_dict().items()}
    write_file(folder / WEIGHTS_FILE, lambda path: save_tensors(tensors, path))
    write_json(folder / CONFIG_FILE, generator.config.to_dict())


def weights_hash(folder: Path) -> str | None:
    """sha256 of a folder's model.safetensors: says which state of a model figures belong to."""
    try:
        with open(folder / WEIGHTS_FILE, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def from_pretrained(
    model: str | os.PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> Generator:
    """The generator in a local folder or on the Hub, in eval mode.

    Args:
        model: a folder with config.json and model.safetensors, or a Hub id like "user/fastgan-anime", perhaps with a
            revision as in "user/fastgan-anime@v1". A folder wins.
        revision: branch, tag or commit of a Hub model.
        token: for private models; the saved one when not given.
        cache_dir: where downloads are kept.
        local_files_only: take only what is in the cache.
        device: where the generator goes; "auto" is the GPU where there is one.
        dtype: what it computes in, or its name. In torch.bfloat16 or torch.float16 pictures are quicker where the
            hardware has it, take half the memory, and differ in places by a shade or two.

    Raises:
        UserError: there is no such model, or it is not one that can be trusted to be a FastGAN generator: a config
            out of bounds, weights of other names, shapes or types, a truncated file, an absurd size. Nothing larger
            than the config asks for is downloaded or allocated.
    """
    folder = Path(model)
    if folder.is_dir() and revision:
        raise UserError(f"{model}: a folder, which has no revision {revision}; only models on the Hub have revisions")
    if not folder.is_dir():
        folder = _download(str(model), revision, token, cache_dir, local_files_only)
    try:
        config = ModelConfig.from_dict(read_json(folder / CONFIG_FILE))
    except UserError as error:
        where = "" if str(folder) in str(error) else f"{folder}: "
        raise UserError(f"{where}{error}") from None
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return load_generator(config, folder / WEIGHTS_FILE).to(find_device(device), dtype)


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name; of "auto" this machine's GPU, or else its CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def load_generator(config: ModelConfig, weights: Path) -> Generator:
    """A generator in eval mode with the weights of a safetensors file that matches it exactly."""
    with torch.device("meta"):
        generator = Generator(config)
    load_weights(generator, weights)
    return generator.eval()


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the tensors of a safetensors file, names, shapes and types checked before they are read.

    Raises:
        UserError: no such file, not a whole safetensors file, or another network's.
    """
    expected = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            if missing := sorted(set(expected) - set(found)):
                raise UserError(f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}")
            if extra := sorted(set(found) - set(expected)):
                raise UserError(f"{path}: {len(extra)} tensors do not belong here, the first is {extra[0]}")
            for name, tensor in expected.items():
                shape, dtype = tuple(found[name].get_shape()), DTYPES.get(found[name].get_dtype())
                if shape != tuple(tensor.shape) or dtype != tensor.dtype:
                    raise UserError(
                        f"{path}: {name} is {found[name].get_dtype()} {list(shape)}, "
                        f"the config says {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
                    )
        tensors = load_file(path)  # mapped; Windows would not let a training run replace the file
        if assign := next(iter(expected.values())).is_meta:
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        network.load_state_dict(tensors, strict=True, assign=assign)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download or save it again") from None


def weights_limit(config: ModelConfig) -> int:
    """Bytes that model.safetensors of such a generator has at most."""
    with torch.device("meta"):
        return weight_bytes(Generator(config)) + 1_000_000  # names and shapes beside the data


def weight_bytes(generator: Generator) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in generator.state_dict().values())


def _download(model: str, revision: str | None, token, cache_dir, local_files_only: bool) -> Path:
    """The folder of a Hub model in the cache, its config checked before its weights are fetched."""
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    config, commit = fetch_config(model, revision, NO_FOLDER, **options)
    weights = fetch(model, WEIGHTS_FILE, weights_limit(config), commit, **options)
    if weights is None:
        raise UserError(f"{_named(model, revision)}: has no {WEIGHTS_FILE}; fastgan loads nothing but safetensors")
    return weights.parent


def fetch_config(model: str, revision: str | None = None, more: str = "", **options: Any) -> tuple[ModelConfig, str]:
    """The config of a Hub model, and the commit that it is of; the arguments are those of :func:`fetch`.

    Raises:
        UserError: as :func:`fetch`, or the model has no config of ours.
    """
    path = fetch(model, CONFIG_FILE, MAX_CONFIG, revision, more, **options)
    if path is None:
        raise UserError(f"{_named(model, revision)}: has no {CONFIG_FILE}, so it is not a fastgan model")
    return ModelConfig.from_dict(read_json(path)), commit_of(path, CONFIG_FILE)


def _named(model: str, revision: str | None) -> str:
    """How messages name a Hub model."""
    return f"{model}@{revision}" if revision else model


def commit_of(path: Path, file: str) -> str:
    """The commit that a file is of, by where :func:`fetch` put it."""
    return path.parents[file.count("/")].name


def fetch(
    model: str,
    file: str,
    limit: int,
    revision: str | None = None,
    more: str = "",
    where: str | None = None,
    **options: Any,
) -> Path | None:
    """A file of a Hub model in the cache, or None where the model has no such file.

    Args:
        model: Hub id, perhaps with a revision as in "user/model@v1".
        file: its path there.
        limit: bytes; what announces more is not fetched.
        revision: branch, tag or commit.
        more: what else is said where there is no such model, or no way to the Hub.
        where: how messages begin; with the model and its revision when not given.
        options: token, cache_dir and local_files_only, as in :func:`from_pretrained`.

    Raises:
        UserError: no such model or revision, no way to the Hub, or a file that is too large.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id

    limit_silence()
    model, _, at = model.partition("@")
    revision = revision or at or None
    name, where = where or model, where or _named(model, revision)
    try:
        validate_repo_id(model)
        size = hf_hub_download(model, file, revision=revision, dry_run=True, **options).file_size or 0
        if size > limit:
            raise UserError(
                f"{where}: announces {size:,} bytes of {file}, at most {limit:,} are expected; not fetched"
            )
        return Path(hf_hub_download(model, file, revision=revision, **options))
    except HFValidationError:
        raise UserError(f"{model}: neither a folder here nor a Hub id like user/fastgan-anime") from None
    except GatedRepoError:
        raise UserError(f"{where}: gated; ask for access on its page on the Hub, then run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{where}: no such model on the Hub, or it is private: log in with `hf auth login`{more}"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: has no revision {revision}; no such branch, tag or commit") from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"{where}: not in the cache, and the Hub can't be reached; check the connection{more}"
        ) from None
    except EntryNotFoundError:
        return None
    except HfHubHTTPError as error:
        raise UserError(f"{where}: the Hub refused ({error.server_message or error})") from None
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: of hf_xet, which fetches by itself
        raise UserError(f"{where}: {file} could not be fetched whole ({error}); try again") from None
