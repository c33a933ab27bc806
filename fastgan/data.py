"""Pictures from the Hub or from this disk, decoded once into uint8, and the batches that training sees.

Nothing here runs code that came with a dataset, unpacks an archive onto the disk, or reads a file that a downloaded
dataset merely names.
"""

import errno
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from fastgan.config import is_pattern
from fastgan.errors import NO_FOLDER, UserError

PREPARATION = 1  # raise it whenever prepare() gives other pixels, so that no stale cache is used
MIN_SIDE = 16  # pixels; a picture with a shorter side teaches nothing
MEMORY_BYTES = 2 * 2**30  # prepared sets up to this size are held in memory, larger ones are memory-mapped
SHUFFLE_BUFFER = 1024  # pictures a process holds, still encoded, to mix a stream
STREAM_THREADS = 4  # of each worker process of a stream: they wait for the network more than they decode
ZIP_ENTRY_BYTES = 2**29  # an entry of a .zip that says it is larger is skipped
# Formats that Pillow reads by itself. EPS is left out: Pillow hands it to an external interpreter.
FORMATS = tuple("AVIF BMP DDS DIB GIF ICNS ICO JPEG JPEG2000 PCX PNG PPM PSD QOI SGI TGA TIFF WEBP XBM XPM".split())
UNREADABLE = {".heic": "HEIC", ".heif": "HEIF"}  # what phones make and Pillow can't read: said, not ignored
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}


@dataclass(frozen=True)
class Pictures:
    """A set that is ready to train on."""

    images: Tensor  # uint8 [N, C, H, W]; in memory, or memory-mapped above MEMORY_BYTES
    fingerprint: str  # hex; the same pictures prepared the same way have the same
    source: dict[str, Any]  # facts for the card, JSON-able; never a local path, only a folder's or file's name
    skipped: list[tuple[str, str]]  # which picture (file name or row) is missing, and why


# --------------------------------------------------------------------------------------------------------- one picture


def parse_color(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour such as "white" or "#ffeedd".

    Raises:
        UserError: no such colour.
    """
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UserError(f'--background: no colour "{text}"; try a name like white, or #ffeedd') from None


def prepare(
    image: Image.Image, size: tuple[int, int], channels: int = 3, fit: str = "crop", background: str = "white"
) -> np.ndarray:
    """The picture as training sees it: uint8 [H, W, C].

    It is turned upright (EXIF), brought to 8-bit sRGB (an embedded colour profile is applied, 16-bit and float
    pictures are scaled, not clipped), fitted and resized with antialiasing. Animations give their first frame.

    Args:
        image: any picture that Pillow can open.
        size: height and width of the result, pixels.
        channels: 1 for grey, 3 for RGB (both composed on the background), 4 for RGBA. RGBA is straight, as PNG stores
            it; pixels fade to the background's colour as they vanish, so that what can't be seen is not noise.
        fit: "crop" cuts the middle to the shape, "pad" shows the whole picture on the background (transparent with 4
            channels), "stretch" ignores the shape.
        background: a colour name or #hex.

    Raises:
        UserError: no such colour.
        OSError, ValueError, SyntaxError: as Pillow raises them for a damaged picture.
    """
    color = parse_color(background)
    image = _to_8_bit(_upright(image))
    if channels == 4:
        return _resize_rgba(image.convert("RGBA"), size, fit, color)
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, color)
        image = Image.alpha_composite(canvas, image)
    image = image.convert("L" if channels == 1 else "RGB")
    (height, width), (box, inner) = size, _placement(image.size, size, fit)
    small = image.resize((inner[2] - inner[0], inner[3] - inner[1]), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if small.size != (width, height):
        canvas = Image.new("RGB", (width, height), color).convert(image.mode)
        canvas.paste(small, inner)
        small = canvas
    return np.asarray(small).reshape(height, width, channels)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError):
        return image  # the EXIF block is damaged, the picture may well be fine


def _to_8_bit(image: Image.Image) -> Image.Image:
    """The picture in sRGB: mode "L", "RGB" or, where any pixel may be see-through, "RGBA"."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_scale_to_8_bit(np.asarray(image)))
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        return _to_srgb(image, profile) or image.convert("RGB")
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return image.convert("L")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return _to_srgb(image, profile) or image


def _scale_to_8_bit(values: np.ndarray) -> np.ndarray:
    """uint8 values of a grey picture with deeper pixels, [H, W].

    16-bit values use their whole range. 32-bit and float pictures do not say which range they use: the smallest of the
    usual ones (0 to 1 for floats, 0 to 255, 0 to 65535) that holds them, or else from their own lowest to highest.
    """
    usual = {"u": (65535,), "i": (255, 65535), "f": (1, 255, 65535)}[values.dtype.kind]
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    low, high = next(((0, top) for top in usual if low >= 0 and high <= top), (low, high))
    return np.round((values - low) * (255 / (high - low or 1))).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The picture converted from its embedded colour profile; None where there is no use for one."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != image.mode[: len(space)] or ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        mode = "RGB" if image.mode == "CMYK" else image.mode
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return None  # a damaged profile; the pixels are all there is


def _placement(
    source: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[tuple[float, ...], tuple[int, int, int, int]]:
    """Which part of the source (width, height) is shown, and where in the result; boxes left, top, right, bottom."""
    (source_width, source_height), (height, width) = source, size
    whole, everywhere = (0, 0, source_width, source_height), (0, 0, width, height)
    if fit == "crop":
        scale = min(source_width / width, source_height / height)
        left, top = (source_width - width * scale) / 2, (source_height - height * scale) / 2
        return (max(left, 0), max(top, 0), source_width - max(left, 0), source_height - max(top, 0)), everywhere
    if fit == "pad":
        scale = max(source_width / width, source_height / height)
        inner_width, inner_height = (max(1, round(side / scale)) for side in source)
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        return whole, (left, top, left + inner_width, top + inner_height)
    if fit == "stretch":
        return whole, everywhere
    raise ValueError(f'fit: expected "crop", "pad" or "stretch", got {fit!r}')


def _resize_rgba(image: Image.Image, size: tuple[int, int], fit: str, color: tuple[int, int, int]) -> np.ndarray:
    """Straight RGBA, uint8 [H, W, 4], resized with premultiplied colour so that no hidden colour bleeds in."""
    box, (left, top, right, bottom) = _placement(image.size, size, fit)
    pixels = np.asarray(image, dtype=np.float32) / 255
    # Float, because at a low alpha 8-bit premultiplied colour can't be divided back into anything but speckles.
    planes = [pixels[..., c] * pixels[..., 3] for c in range(3)] + [pixels[..., 3]]
    resized = np.zeros((*size, 4), np.float32)
    for c, plane in enumerate(planes):
        # Lanczos would ring: a second, faint outline in the alpha around every shape.
        small = Image.fromarray(plane).resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
        resized[top:bottom, left:right, c] = np.asarray(small)
    alpha = resized[..., 3:].clip(0, 1)
    rgb = resized[..., :3].clip(0, alpha)  # the filter overshoots at edges, premultiplied colour must not
    # The share of the background is 0 where the picture is opaque, 1 where it is gone, and small in between.
    share = (1 - alpha) / 64
    rgb = (rgb + share * np.array(color, np.float32) / 255) / (alpha + share)
    return np.round(np.concatenate([rgb, alpha], axis=-1) * 255).astype(np.uint8)


def _decode(read: Callable[[dict], bytes | Path], row: dict, how: Mapping[str, Any]) -> np.ndarray | str:
    """One prepared picture, uint8 [H, W, C], or the reason why there is none."""
    try:
        content = read(row)
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
            if min(image.size) < MIN_SIDE:
                return f"only {image.width}x{image.height} pixels; both sides need {MIN_SIDE}"
            return prepare(image, **how)
    except _Refused as refusal:
        return str(refusal)
    except FileNotFoundError:  # a table may hold names of files that stayed elsewhere
        return "its file is not here"
    except UnidentifiedImageError:
        return "not a picture, or damaged at its start"
    except Image.DecompressionBombError:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels"
    except Exception as error:  # Pillow's decoders fail on damaged files with almost any exception
        return f"damaged: {getattr(error, 'strerror', None) or error or type(error).__name__}"


class _Refused(Exception):
    """A picture that is not read; the message is the reason."""


# -------------------------------------------------------------------------------------------------- where pictures are
#
# Each source has `facts` for the card; `where`, which names it; `state()`, which changes when its pictures do;
# `rows()`, dicts, sized; `stream()`, the same rows as a datasets.IterableDataset; `label(row)` for messages; and
# `read(row)`, which fetches the encoded picture.


class _Folder:
    """Picture files in a folder and the folders below it."""

    def __init__(self, path: Path, split: str):
        self.facts = {"dataset": path.resolve().name, "kind": "folder", "split": split}
        self.where = str(path.resolve())
        names = [file.relative_to(path).as_posix() for file in _files_below(path)]
        self.names = _of_split(_picture_names(names), split, str(path))

    def state(self) -> list:
        return [[name, *_stamp(Path(self.where, name))] for name in self.names]

    def rows(self) -> list[dict]:
        return [{"name": name} for name in self.names]

    def stream(self) -> Any:
        return _stream_of_names(self.names)

    def label(self, row: dict) -> str:
        return row["name"]

    def read(self, row: dict) -> Path:
        _refuse_unreadable(row["name"])
        return Path(self.where, row["name"])


class _Zip(_Folder):
    """Picture files in a .zip, read in memory and never unpacked."""

    def __init__(self, path: Path, split: str):
        self.facts = {"dataset": path.name, "kind": "zip", "split": split}
        self.where = str(path.resolve())
        self.archives: dict[int, zipfile.ZipFile] = {}  # by process: an open file must not be shared across a fork
        with self._open() as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        self.names = _of_split(_picture_names(names), split, str(path))

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.where)
        except zipfile.BadZipFile:
            raise UserError(f"--dataset {self.facts['dataset']}: not a .zip, or a damaged one") from None
        except OSError as error:
            raise UserError(f"--dataset {self.facts['dataset']}: {error.strerror}") from None

    def state(self) -> list:
        return _stamp(Path(self.where))

    def read(self, row: dict) -> bytes:
        _refuse_unreadable(row["name"])
        archive = self.archives.get(os.getpid()) or self.archives.setdefault(os.getpid(), self._open())
        if archive.getinfo(row["name"]).file_size > ZIP_ENTRY_BYTES:
            raise _Refused(f"more than {ZIP_ENTRY_BYTES // 2**20} MB")
        return archive.read(row["name"])


class _Table:
    """A column of a Hub dataset, of parquet files or of a saved dataset, read through `datasets`."""

    def __init__(self, facts: dict, where: Any, files: list[Path], image_column: str | None, **load: Any):
        self.facts = facts
        self.where = where  # a Hub id, or resolved local paths
        self.files = files  # local files to watch for changes
        self.image_column = image_column
        self.load = load  # arguments of load_dataset_builder; none for a saved dataset
        self.hub = facts["kind"] == "hub"

    def state(self) -> list:
        """Raises _Unreachable where the Hub does not answer."""
        if not self.hub:
            return [[str(file), *_stamp(file)] for file in self.files]
        info = _hub_info(self.where, self.load["revision"], self.load["token"])
        self.load["revision"] = self.facts["revision"] = info.sha
        if license := getattr(info.card_data, "license", None):
            self.facts["license"] = license
        return [info.sha]

    def rows(self) -> Any:
        with _plain_errors(self.facts["dataset"]):
            return self._column(self._load(streaming=False))

    def stream(self) -> Any:
        with _plain_errors(self.facts["dataset"]):
            return self._column(self._load(streaming=True))

    def label(self, row: dict) -> str:
        path = (row["image"] or {}).get("path")
        return PurePosixPath(path).name if path else ""

    def read(self, row: dict) -> bytes | Path:
        cell = row["image"] or {}
        if cell.get("bytes"):
            return cell["bytes"]
        if not (path := cell.get("path")):
            raise _Refused("empty")
        if "://" in path:
            from datasets import DownloadConfig
            from datasets.utils.file_utils import xopen

            if not path.split("::")[-1].startswith("hf://"):
                raise _Refused("names an address outside the Hub")
            with xopen(path, "rb", download_config=DownloadConfig(token=self.load.get("token"))) as file:
                return file.read()
        # A dataset by a stranger must not make us read a file of this machine just by naming it.
        if self.hub and not any(Path(path).resolve().is_relative_to(folder) for folder in _download_folders()):
            raise _Refused("names a file outside the dataset")
        return Path(path)

    def _load(self, streaming: bool) -> Any:
        split = self.facts["split"]
        if not self.load:
            dataset = _load_saved(self.where, split)
            return dataset.to_iterable_dataset(num_shards=max(1, min(64, len(dataset)))) if streaming else dataset
        from datasets import load_dataset_builder

        builder = load_dataset_builder(**self.load)
        if self.hub and "revision" not in self.facts:  # no answer from the Hub: this is what was downloaded before
            self.facts["revision"] = builder.hash
        if streaming:
            splits = builder.as_streaming_dataset()
            dataset = splits[split] if split in splits else _no_split(split, splits)
            # A Hub stream decodes pictures in threads of its own, where one broken picture would end it.
            return dataset.decode(False) if dataset.features else dataset
        # The counts in a dataset's card are often stale; they are no reason to refuse the pictures.
        builder.download_and_prepare(verification_mode="no_checks")
        try:
            return builder.as_dataset(split=split)
        except ValueError:
            return _no_split(split, builder.info.splits)

    def _column(self, dataset: Any) -> Any:
        """The dataset with nothing but its pictures, undecoded, as column "image"."""
        from datasets import Image as ImageFeature

        if dataset.features is None:
            raise UserError(f"--dataset {self.facts['dataset']}: does not tell its columns; try without --streaming")
        column = _find_column(dataset, self.image_column, self.facts["dataset"])
        self.facts["image_column"] = column
        dataset = dataset.select_columns([column]).cast_column(column, ImageFeature(decode=False))
        return dataset if column == "image" else dataset.rename_column(column, "image")


def _find_source(
    source: str, split: str, config_name: str | None, image_column: str | None, revision: str | None, token: Any
) -> _Folder | _Table:
    """What `source` means: something on this disk if it exists, or else a dataset on the Hub."""
    path = Path(os.path.expanduser(source))
    pattern = is_pattern(source)
    if revision and (path.exists() or pattern):
        raise UserError(f"--revision {revision}: {source} is on this disk; only datasets on the Hub have any")
    if path.is_file() and path.suffix.lower() == ".zip":
        return _Zip(path, split)
    facts = {"dataset": path.resolve().name, "kind": "parquet", "split": split}
    if path.is_file() or pattern:
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True)) if pattern else [path]
        if not files:
            raise UserError(f"--dataset {source}: no such files")
        if any(file.suffix.lower() != ".parquet" for file in files):
            raise UserError(f"--dataset {source}: expected a folder, a .zip or .parquet files")
        where = [str(file.resolve()) for file in files]
        return _Table(facts, where, files, image_column, path="parquet", data_files=where)
    if not path.is_dir():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or path.suffix.lower() in (".zip", ".parquet"):
            raise UserError(f"--dataset {source}: no such file or folder")
        facts = {"dataset": source, "kind": "hub", "config": config_name, "split": split}
        load = {"path": source, "name": config_name, "revision": revision, "token": token}
        return _Table(facts, source, [], image_column, **load)
    files, where = list(_files_below(path)), str(path.resolve())
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _Table(facts | {"kind": "saved"}, where, files, image_column)
    tables = [file for file in files if file.suffix.lower() == ".parquet" and file.stem != "metadata"]
    if not tables:
        return _Folder(path, split)
    if pictures := _picture_names(file.name for file in files):
        raise UserError(
            f"--dataset {source}: holds both pictures ({pictures[0]}, ...) and parquet files ({tables[0].name}, ...); "
            f"name the folder of the pictures, or '{source.rstrip('/')}/**/*.parquet'"
        )
    return _Table(facts | {"config": config_name}, where, files, image_column, path=where, name=config_name)


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in the folder and below, sorted, without hidden ones and without what training runs left there."""
    for parent, folders, names in os.walk(folder):
        if "train_config.json" in names and Path(parent) != folder:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def picture_names(folder: Path) -> list[str]:
    """Paths, relative to a folder, of the files in it and below that end like a picture; hidden ones aside, sorted."""
    return _picture_names(file.relative_to(folder).as_posix() for file in _files_below(folder))


def _picture_names(names: Iterable[str]) -> list[str]:
    """Those of the relative names that end like a picture and are not hidden, sorted."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS} | set(UNREADABLE)
    return sorted(
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in endings
        and not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
    )


def _of_split(names: list[str], split: str, where: str) -> list[str]:
    """The pictures of one split, where the top folders are train, test and the like; else all belong to "train"."""
    if not names:
        raise UserError(f"--dataset {where}: no pictures in it")
    tops = {PurePosixPath(name).parts[0] for name in names}
    if not tops <= SPLIT_NAMES:
        return names if split == "train" else _no_split(split, ["train"])
    return [name for name in names if PurePosixPath(name).parts[0] == split] or _no_split(split, sorted(tops))


def _no_split(split: str, splits: Iterable[str]) -> NoReturn:
    raise UserError(f"--split {split}: no such split; there is {', '.join(splits)}")


def _stamp(file: Path) -> list[int]:
    """What changes when a file does: size and time of change."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _refuse_unreadable(name: str) -> None:
    if kind := UNREADABLE.get(PurePosixPath(name).suffix.lower()):
        raise _Refused(f"{kind} can't be read here; save it as JPEG or PNG")


def _stream_of_names(names: list[str]) -> Any:
    from datasets import IterableDataset

    step = max(1, min(64, len(names) // 64))  # a part goes to one worker as a whole
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    return IterableDataset.from_generator(_name_rows, gen_kwargs={"parts": parts})


def _name_rows(parts: list[list[str]]) -> Iterator[dict]:
    for part in parts:
        yield from ({"name": name} for name in part)


# ---------------------------------------------------------------------------------------------- the Hub and `datasets`


class _Unreachable(Exception):
    """The Hub did not answer; the message says how."""


def _hub_info(dataset: str, revision: str | None, token: Any) -> Any:
    from huggingface_hub import HfApi, errors

    try:
        api = HfApi(token=token)
        info = api.dataset_info(dataset, revision=revision, timeout=30)
        if info.gated:
            api.auth_check(dataset, repo_type="dataset")  # anyone may read about it, not everyone its files
        return info
    except errors.RevisionNotFoundError:
        raise UserError(f"--revision {revision}: {dataset} has no such branch, tag or commit") from None
    except errors.GatedRepoError:
        raise UserError(
            f"--dataset {dataset}: gated; ask for access on its page on the Hub, then sign in with: hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"--dataset {dataset}: no such file or folder here, and no such dataset on the Hub, or it is private "
            "(sign in with: hf auth login)"
        ) from None
    except errors.HFValidationError:
        raise UserError(f"--dataset {dataset}: neither a file or folder here nor a Hub id like user/name") from None
    # HTTPError is the base of HfHubHTTPError and comes bare when there is no connection at all.
    except (OSError, errors.HTTPError) as error:
        raise _Unreachable(_one_line(error)) from None


@contextmanager
def _plain_errors(dataset: str) -> Iterator[None]:
    """Turns what `datasets` raises while it finds, fetches and reads a dataset into a UserError of one line."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except (DatasetsError, errors.HTTPError, OSError, ValueError) as error:
        if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in (error, error.__cause__)):
            raise UserError(f"--dataset {dataset}: the disk is full; HF_HOME can name another one") from error
        if isinstance(error, ConnectionError | errors.HTTPError):
            raise UserError(
                f"--dataset {dataset}: the Hub can't be reached, and this was not fetched before ({_one_line(error)})"
                f"{NO_FOLDER}"
            ) from error
        if isinstance(error, ValueError) and str(error).startswith(("BuilderConfig", "Config name")):
            raise UserError(f"--dataset-config: {_one_line(error)}") from error
        raise UserError(f"--dataset {dataset}: can't be read ({_one_line(error.__cause__ or error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _download_folders() -> list[Path]:
    from datasets import config
    from huggingface_hub import constants

    return [Path(folder).resolve() for folder in (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)]


def _load_saved(where: str, split: str) -> Any:
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(where)
    splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
    return splits[split] if split in splits else _no_split(split, splits)


def _find_column(dataset: Any, wanted: str | None, where: str) -> str:
    """The name of the column that holds the pictures."""
    from datasets import Image as ImageFeature

    features = dataset.features
    if wanted is not None:
        if wanted not in features:
            raise UserError(f"--image-column {wanted}: no such column; there is {', '.join(features)}")
        if not (isinstance(features[wanted], ImageFeature) or _may_hold_pictures(features[wanted])):
            raise UserError(f"--image-column {wanted}: holds no pictures; the columns are {', '.join(features)}")
        return wanted
    found = [name for name, kind in features.items() if isinstance(kind, ImageFeature)]
    if not found and (maybe := [name for name, kind in features.items() if _may_hold_pictures(kind)]):
        rows = list(itertools.islice(dataset.select_columns(maybe), 8))
        found = [name for name in maybe if any(_is_picture(row[name]) for row in rows)]
    if not found:
        raise UserError(f"--dataset {where}: no column with pictures; its columns are {', '.join(features)}")
    if len(found) > 1:
        raise UserError(
            f"--dataset {where}: pictures in columns {', '.join(found)}; choose one, like --image-column {found[0]}"
        )
    return found[0]


def _may_hold_pictures(kind: Any) -> bool:
    return "bytes" in kind if isinstance(kind, dict) else getattr(kind, "dtype", None) in ("binary", "large_binary")


def _is_picture(value: Any) -> bool:
    try:
        with Image.open(io.BytesIO(value["bytes"] if isinstance(value, dict) else value), formats=FORMATS):
            return True
    except Exception:  # anything at all may stand in a column of bytes
        return False


# ------------------------------------------------------------------------------------------------------- the whole set


def load_pictures(
    source: str,
    *,
    size: tuple[int, int],
    channels: int = 3,
    config_name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    fit: str = "crop",
    background: str = "white",
    cache_dir: Path | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Pictures:
    """Every picture of a dataset, prepared; from the cache when the same was asked for before.

    Args:
        source: a folder, a .zip, a .parquet file, a pattern for parquet files, a folder that `datasets.save_to_disk`
            wrote, or a Hub id like "user/name". What exists on this disk wins.
        size: height and width, pixels.
        channels, fit, background: see :func:`prepare`.
        config_name, split, revision: of a Hub dataset. A local folder has splits if its top folders are named so.
        image_column: found by itself when there is one.
        token: for the Hub; the signed-in one when not given.
        cache_dir: where prepared pictures are kept; `fastgan` in the Hugging Face home when not given.
        num_workers: decoding threads; one per processor, at most 8, when not given.
        progress: show a bar while decoding.

    Raises:
        UserError: nothing there, nothing readable, no room, or a setting that does not fit the dataset.
    """
    from huggingface_hub.utils import WeakFileLock

    parse_color(background)
    found = _find_source(source, split, config_name, image_column, revision, token)
    how = {"size": tuple(size), "channels": channels, "fit": fit, "background": background}
    cache = cache_folder(cache_dir)
    request = _hash([PREPARATION, found.where, config_name, split, image_column, revision, how])
    with WeakFileLock(cache / f"{request}.lock"):  # of processes that start together, one decodes and the others wait
        earlier = sorted(cache.glob(f"{request}-*"), key=lambda entry: entry.stat().st_mtime)
        try:
            entry = cache / f"{request}-{_hash(found.state())}"
        except _Unreachable:
            entry = earlier[-1] if earlier else cache / f"{request}-offline"
        pictures = _read_prepared(entry)
        if pictures is None:
            workers = num_workers or min(8, _cores())
            _write_prepared(entry, found, how, workers, progress)
            for stale in set(earlier) - {entry}:
                shutil.rmtree(stale, ignore_errors=True)
            pictures = _read_prepared(entry)
    return pictures


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def cache_folder(cache_dir: Path | None) -> Path:
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


def _write_prepared(entry: Path, found: Any, how: dict[str, Any], workers: int, progress: bool) -> None:
    """Decode every picture into `entry`, a folder that appears whole or not at all."""
    from tqdm import tqdm

    rows = found.rows()
    height, width, channels = *how["size"], how["channels"]
    need, free = len(rows) * height * width * channels, shutil.disk_usage(entry.parent).free
    if need > free:
        raise UserError(
            f"--cache-dir {entry.parent}: {len(rows)} prepared pictures need {need / 2**30:.1f} GB, but only "
            f"{free / 2**30:.1f} GB are free; name a folder on a larger disk, or use --streaming"
        )
    partial_entry = entry.parent / f"{entry.name.split('-')[0]}.partial"
    shutil.rmtree(partial_entry, ignore_errors=True)  # left by a run that was killed
    try:
        partial_entry.mkdir()
        count, skipped, fingerprint = 0, [], hashlib.sha256(repr((PREPARATION, channels, height, width)).encode())
        with open(partial_entry / "pictures.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), channels, height, width)}
            np.lib.format.write_array_header_1_0(file, header)
            decoded = _decode_all(found, rows, how, workers)
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
        partial_entry.rename(entry)
    except OSError as error:
        raise UserError(f"--cache-dir {entry.parent}: can't write there ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial_entry, ignore_errors=True)


def _decode_all(
    found: Any, rows: Iterable[dict], how: dict[str, Any], threads: int
) -> Iterator[tuple[dict, np.ndarray | str]]:
    """Each row with its prepared picture or what is wrong with it, in order."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row in rows:
            waiting.append((row, pool.submit(_decode, found.read, row, how)))
            if len(waiting) > 4 * threads:  # bounds what is held in memory
                row, picture = waiting.popleft()
                yield row, picture.result()
        for row, picture in waiting:
            yield row, picture.result()


# ------------------------------------------------------------------------------------------------------------- batches


def batches(
    images: Tensor,
    *,
    batch_size: int,
    seed: int,
    start_images: int = 0,
    rank: int = 0,
    world_size: int = 1,
    flip: bool = True,
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
        yield _to_float(images.index_select(0, chosen), mirrored if flip else None)


def _to_float(pictures: Tensor, mirrored: Tensor | None) -> Tensor:
    """float32 [B, C, H, W] in [-1, 1] of uint8 pictures, those mirrored that `mirrored` [B] says."""
    if mirrored is not None:
        for number in mirrored.nonzero().flatten().tolist():  # ten times as fast as an index for all of them
            pictures[number] = pictures[number].flip(-1)
    return pictures.float().div_(127.5).sub_(1)


class StreamedBatches:
    """Endless batches, float32 [B / world_size, C, H, W] in [-1, 1], read while training; made by stream_batches."""

    def __init__(self, found: Any, loader: Any, rng: np.random.Generator, flip: bool):
        self.source: dict[str, Any] = found.facts  # facts for the card, without the number of pictures
        self.skipped: list[tuple[str, str]] = []  # grows while the first pass goes on
        self._batches = _streamed(loader, rng, flip, self.skipped, found.facts["dataset"])

    def __iter__(self) -> "StreamedBatches":
        return self

    def __next__(self) -> Tensor:
        return next(self._batches)


# Not a method: a generator that refers to its owner is freed late, and late the loader's workers take long to stop.
def _streamed(loader: Any, rng: np.random.Generator, flip: bool, skipped: list, dataset: str) -> Iterator[Tensor]:
    for pictures, missing, error in loader:
        skipped.extend((name, why) for name, why in missing)  # the loader made lists of them
        if error:
            raise UserError(error)
        if len(pictures):
            yield _to_float(pictures, torch.from_numpy(rng.random(len(pictures)) < 0.5) if flip else None)
    reason = f"; one is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    raise UserError(f"--dataset {dataset}: none of its pictures can be used{reason}")


class _WorkerBatches(torch.utils.data.IterableDataset):
    """What a worker makes: uint8 [B, C, H, W], what was skipped since the last batch, and a fatal error or ""."""

    def __init__(self, found: Any, how: dict[str, Any], share: int, buffer: int, seed: list[int], place: list[int]):
        self.found, self.how, self.share = found, how, share
        self.stream, self.buffer, self.seed, self.place = found.stream(), buffer, seed, place

    def rows(self, number: int) -> Any:
        """This process's part of a pass, in an order of its own.

        The dataset's own count of passes is shared between workers: one that is ahead would give the others another
        division of the pictures than its own, and some would be missed.
        """
        from datasets.distributed import split_dataset_by_node

        # Every process must shuffle the parts alike, or they would not divide them without overlap.
        order = int(np.random.default_rng([*self.seed, number]).integers(2**31))
        return split_dataset_by_node(self.stream.shuffle(seed=order, buffer_size=self.buffer), *self.place)

    def __iter__(self) -> Iterator[tuple[Tensor, list[tuple[str, str]], str]]:
        try:
            with _plain_errors(self.found.facts["dataset"]):
                yield from self._passes()
        except UserError as error:  # raised here, its one line would reach the person inside a worker's traceback
            yield torch.empty(0), [], str(error)

    def _passes(self) -> Iterator[tuple[Tensor, list[tuple[str, str]], str]]:
        pictures, skipped, seen = [], [], 0
        for number in itertools.count():
            for row, picture in _decode_all(self.found, self.rows(number), self.how, STREAM_THREADS):
                if isinstance(picture, str):
                    if number == 0:  # later passes meet the same again
                        skipped.append((self.found.label(row) or "a row", picture))
                    continue
                seen += 1
                pictures.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
                if len(pictures) == self.share:
                    yield torch.stack(pictures), skipped, ""
                    pictures, skipped = [], []
            if not seen:  # other workers may have better luck
                yield torch.empty(0), skipped, ""
                return


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_ctrl_c(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: training decides when to stop, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stream_batches(
    source: str,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    channels: int = 3,
    config_name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    fit: str = "crop",
    background: str = "white",
    start_images: int = 0,
    rank: int = 0,
    world_size: int = 1,
    flip: bool = True,
    workers: int = 2,
) -> StreamedBatches:
    """Endless batches of a dataset that does not fit on this disk, decoded by worker processes while training.

    Pictures are mixed within a buffer of SHUFFLE_BUFFER per process, unlike :func:`batches`; and a resumed run goes on
    with a newly shuffled pass, since finding the old place would mean to read everything before it.

    Args:
        batch_size, seed, start_images, rank, world_size, flip: see :func:`batches`.
        workers: decoding processes for each training process; 0 decodes in the training process itself.
        source and the others: see :func:`load_pictures`.

    Raises:
        UserError: as :func:`load_pictures`; while iterating, when no picture at all can be read.
    """
    share = batch_size // world_size
    if share * world_size != batch_size:
        raise UserError(f"--batch-size {batch_size}: can't be shared equally by {world_size} processes")
    parse_color(background)
    found = _find_source(source, split, config_name, image_column, revision, token)
    try:
        found.state()  # pins the revision
    except _Unreachable as error:
        raise UserError(f"--dataset {source}: the Hub can't be reached ({error}); --streaming needs it") from None
    how = {"size": tuple(size), "channels": channels, "fit": fit, "background": background}
    buffer = max(1, SHUFFLE_BUFFER // max(1, workers))
    made = _WorkerBatches(found, how, share, buffer, [seed, start_images], [rank, world_size])
    loader = torch.utils.data.DataLoader(
        made,
        batch_size=None,
        # A part is never split, so more would have nothing; and PyTorch warns of more than there are cores.
        num_workers=min(workers, made.rows(0).num_shards, _cores()),
        generator=torch.Generator(),  # otherwise the loader draws from the random state of training
        worker_init_fn=_leave_ctrl_c,
    )
    return StreamedBatches(found, loader, np.random.default_rng([seed, start_images, rank]), flip)
