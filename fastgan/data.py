"""A whole dataset, decoded once into uint8 and kept in a cache, and the batches that training sees."""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.errors import UserError
from fastgan.files import replace
from fastgan.pixels import to_float
from fastgan.preparing import PREPARATION_VERSION, Preparation, cores, decode_all
from fastgan.sources import Source, Unreachable, find_source

MOST_THREADS = 8  # that decode a set
MEMORY_BYTES = 2 * 2**30  # prepared sets up to this size are held in memory, larger ones are memory-mapped


class NoRoom(UserError):
    """The prepared pictures do not fit on the disk of the cache."""


@dataclass(frozen=True)
class Pictures:
    """A set that is ready to train on."""

    images: Tensor  # uint8 [N, C, H, W]; in memory, or memory-mapped above MEMORY_BYTES
    fingerprint: str  # hex; the same pictures prepared the same way have the same
    source: dict[str, Any]  # facts for the card, JSON-able; never a local path, only a folder's or file's name
    skipped: list[tuple[str, str]]  # which picture (file name or row) is missing, and why


def load_pictures(
    source: str,
    *,
    size: tuple[int, int],
    channels: int = 3,
    config_name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    revision: str | None = None,
    fit: str = "crop",
    background: str = "white",
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Pictures:
    """Every picture of a dataset, prepared; from the cache when the same was asked for before.

    Args:
        source: a folder, a .zip, a .parquet file, a pattern for parquet files, a folder that `datasets.save_to_disk`
            wrote, or a Hub id like "user/name". What exists on this disk wins.
        size: height and width, pixels.
        channels, fit, background: see :class:`fastgan.preparing.Preparation`.
        config_name, split, revision: of a Hub dataset. A local folder has splits if its top folders are named so.
        image_column: found by itself when there is one.
        cache_dir: where prepared pictures are kept; `fastgan` in the Hugging Face home when not given.
        progress: show a bar while decoding.

    Raises:
        NoRoom: the disk of the cache is too small.
        UserError: nothing there, nothing readable, or a setting that does not fit the dataset.
    """
    from huggingface_hub.utils import WeakFileLock

    how = Preparation(tuple(size), channels, fit, background)
    found = find_source(source, split, config_name, image_column, revision)
    cache = cache_folder(cache_dir)
    request = _hash([PREPARATION_VERSION, found.where, config_name, split, image_column, revision, asdict(how)])
    with WeakFileLock(cache / f"{request}.lock"):  # of processes that start together, one decodes and the others wait
        earlier = sorted(cache.glob(f"{request}-*"), key=lambda entry: entry.stat().st_mtime)
        try:
            entry = cache / f"{request}-{_hash(found.state())}"
        except Unreachable:
            entry = earlier[-1] if earlier else cache / f"{request}-offline"
        pictures = _read_prepared(entry)
        if pictures is None:
            _write_prepared(entry, found, how, progress)
            for stale in set(earlier) - {entry}:
                shutil.rmtree(stale, ignore_errors=True)
            pictures = _read_prepared(entry)
    return pictures


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    """The folder for prepared pictures and their features, made; `fastgan` in the Hugging Face home when not given.

    Raises:
        UserError: nothing can be written there.
    """
    from huggingface_hub import constants

    folder = Path(cache_dir).expanduser() if cache_dir else Path(constants.HF_HOME, "fastgan")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UserError(f"--cache-dir {folder}: can't write there ({error.strerror})") from None


def _read_prepared(entry: Path) -> Pictures | None:
    """What an earlier call prepared; None where there is nothing, or nothing whole."""
    try:
        about = json.loads((entry / "pictures.json").read_text(encoding="utf-8"))
        large = (entry / "pictures.npy").stat().st_size > MEMORY_BYTES
        # "c" is copy on write: the tensor may be written to, the file never is.
        images = torch.from_numpy(np.load(entry / "pictures.npy", mmap_mode="c" if large else None))
        skipped = [(name, why) for name, why in about["skipped"]]
        return Pictures(images, about["fingerprint"], about["source"], skipped)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write_prepared(entry: Path, found: Source, how: Preparation, progress: bool) -> None:
    """Decode every picture into `entry`, a folder that appears whole or not at all."""
    from tqdm import tqdm

    rows = found.rows()
    height, width, channels = *how.size, how.channels
    need, free = len(rows) * height * width * channels, shutil.disk_usage(entry.parent).free
    if need > free:
        raise NoRoom(
            f"--cache-dir {entry.parent}: {len(rows)} prepared pictures need {need / 2**30:.1f} GB, but only "
            f"{free / 2**30:.1f} GB are free; name a folder on a larger disk"
        )
    partial_entry = entry.parent / f"{entry.name.split('-')[0]}.partial"
    shutil.rmtree(partial_entry, ignore_errors=True)  # left by a run that was killed
    try:
        partial_entry.mkdir()
        fingerprint = hashlib.sha256(repr((PREPARATION_VERSION, channels, height, width)).encode())
        count, skipped = 0, []
        with open(partial_entry / "pictures.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), channels, height, width)}
            np.lib.format.write_array_header_1_0(file, header)
            decoded = decode_all(found.read, rows, how, min(MOST_THREADS, cores()))
            bar = tqdm(decoded, "Preparing pictures", len(rows), unit="picture", disable=not progress)
            for number, (row, picture) in enumerate(bar):
                if isinstance(picture, str):
                    skipped.append((found.label(row) or f"row {number}", picture))
                    continue
                pixels = picture.transpose(2, 0, 1).tobytes()
                file.write(pixels)
                fingerprint.update(pixels)
                count += 1
            # NumPy pads a header so that the first length can change in place.
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, channels, height, width)})
        if not count:
            reason = f"; the first is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
            raise UserError(f"--dataset {found.facts['dataset']}: none of {len(rows)} pictures can be used{reason}")
        about = {
            "source": found.facts | {"pictures": count},
            "fingerprint": fingerprint.hexdigest(),
            "skipped": skipped,
        }
        (partial_entry / "pictures.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)  # damaged, or it would have been used
        replace(partial_entry, entry)
    except OSError as error:
        raise UserError(f"--cache-dir {entry.parent}: can't write there ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial_entry, ignore_errors=True)


def batches(
    images: Tensor,
    *,
    batch_size: int,
    seed: int,
    start_images: int = 0,
    rank: int = 0,
    world_size: int = 1,
    flip: bool = True,
    as_bytes: bool = False,
) -> Iterator[Tensor]:
    """Endless shuffled batches, float32 [B / world_size, C, H, W] in [-1, 1].

    What comes depends on nothing but the seed and the images seen so far: every pass over the set has its own order,
    passes follow one another without a gap, and no picture is dropped or repeated within a pass. So a run that resumes
    at `start_images` sees what it would have seen, and the processes of a run together see what one alone would.

    Args:
        images: uint8 [N, C, H, W].
        batch_size: pictures per batch over all processes, a multiple of `world_size`.
        seed: of the orders and the flips, not negative.
        start_images: pictures already seen over all processes; costs nothing to skip.
        rank, world_size: this process and how many there are.
        flip: mirror each picture with probability 1/2.
        as_bytes: give uint8 instead, a quarter of the size, for a device that is quicker at :func:`to_float`.

    Raises:
        UserError: a batch does not split among the processes.
    """
    share, count = batch_size // world_size, len(images)
    if share * world_size != batch_size:
        raise UserError(f"--batch-size {batch_size}: can't be shared equally by {world_size} processes")

    @lru_cache(maxsize=2)  # a batch touches two passes at most, unless it is larger than the set
    def one_pass(number: int) -> tuple[Tensor, Tensor]:
        """The order of the pictures in one pass, and which of them are mirrored, both in that order."""
        rng = np.random.default_rng([seed, number])
        return torch.from_numpy(rng.permutation(count)), torch.from_numpy(rng.random(count) < 0.5)

    for start in itertools.count(start_images + rank * share, batch_size):
        parts, position = [], start
        while position < start + share:
            number, offset = divmod(position, count)
            taken = slice(offset, min(count, offset + start + share - position))
            parts.append([values[taken] for values in one_pass(number)])
            position += taken.stop - offset
        chosen, mirrored = (torch.cat(values) for values in zip(*parts, strict=True))
        yield to_batch(images.index_select(0, chosen), mirrored if flip else None, as_bytes)


def to_batch(pictures: Tensor, mirrored: Tensor | None, as_bytes: bool = False) -> Tensor:
    """float32 [B, C, H, W] in [-1, 1], or bytes, of uint8 pictures, those mirrored that `mirrored` [B] says."""
    if mirrored is not None:
        for number in mirrored.nonzero().flatten().tolist():  # ten times as fast as an index for all of them
            pictures[number] = pictures[number].flip(-1)
    return pictures if as_bytes else to_float(pictures)
