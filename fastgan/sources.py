"""Where pictures come from: folders, .zip and parquet files, saved datasets, and datasets on the Hub.

Nothing here runs code that came with a dataset, unpacks an archive onto the disk, or reads a file that a downloaded
dataset merely names.
"""

import errno
import glob
import io
import itertools
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Protocol

from PIL import Image

from fastgan.config import is_pattern
from fastgan.errors import NO_FOLDER, UserError
from fastgan.files import SETTINGS_FILE
from fastgan.preparing import FORMATS, Refused

ZIP_ENTRY_BYTES = 2**29  # an entry of a .zip that says it is larger is skipped
UNREADABLE = {".heic": "HEIC", ".heif": "HEIF"}  # what phones make and Pillow can't read: said, not ignored
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"}


def unreadable(name: str) -> str | None:
    """Why no picture with such a name can be read; None where it may be."""
    kind = UNREADABLE.get(PurePosixPath(name).suffix.lower())
    return kind and f"{kind} can't be read here; save it as JPEG or PNG"


class Source(Protocol):
    """Where pictures are."""

    facts: dict[str, Any]  # for the card, JSON-able
    where: str | list[str]  # names it: a Hub id, or resolved local paths

    def state(self) -> list:
        """What changes when its pictures do, JSON-able. Raises Unreachable where the Hub does not answer."""

    def rows(self) -> Sequence[dict]:
        """One dict per picture."""

    def stream(self) -> Any:
        """The same rows as a datasets.IterableDataset."""

    def label(self, row: dict) -> str:
        """What a message calls the picture of a row; "" where it has no name."""

    def read(self, row: dict) -> bytes | Path:
        """The encoded picture of a row, or the file that holds it. Raises Refused where it is not to be read."""


class _Files:
    """Picture files known by their names; subclasses know how to read them."""

    def __init__(self, path: Path, facts: dict[str, Any], names: Iterable[str]):
        self.facts = facts
        self.where = str(path.resolve())
        self.names = _of_split(_picture_names(names), facts["split"], str(path))

    def rows(self) -> list[dict]:
        return [{"name": name} for name in self.names]

    def stream(self) -> Any:
        return _stream_of_names(self.names)

    def label(self, row: dict) -> str:
        return row["name"]

    def read(self, row: dict) -> bytes | Path:
        if reason := unreadable(row["name"]):
            raise Refused(reason)
        return self._content(row["name"])


class _Folder(_Files):
    """Picture files in a folder and the folders below it."""

    def __init__(self, path: Path, split: str):
        facts = {"dataset": path.resolve().name, "kind": "folder", "split": split}
        super().__init__(path, facts, (file.relative_to(path).as_posix() for file in _files_below(path)))

    def state(self) -> list:
        return [[name, *_stamp(Path(self.where, name))] for name in self.names]

    def _content(self, name: str) -> Path:
        return Path(self.where, name)


class _Zip(_Files):
    """Picture files in a .zip, read in memory and never unpacked."""

    def __init__(self, path: Path, split: str):
        with _open_zip(path, path.name) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        super().__init__(path, {"dataset": path.name, "kind": "zip", "split": split}, names)
        self.archives: dict[int, zipfile.ZipFile] = {}  # by process: an open file must not be shared across a fork

    def state(self) -> list:
        return _stamp(Path(self.where))

    def _content(self, name: str) -> bytes:
        archive = self.archives.get(os.getpid())
        if not archive:  # whichever of several threads was first, all read from the same
            archive = self.archives.setdefault(os.getpid(), _open_zip(Path(self.where), self.facts["dataset"]))
        if archive.getinfo(name).file_size > ZIP_ENTRY_BYTES:
            raise Refused(f"more than {ZIP_ENTRY_BYTES // 2**20} MB")
        return archive.read(name)


def _open_zip(path: Path, dataset: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"--dataset {dataset}: not a .zip, or a damaged one") from None
    except OSError as error:
        raise UserError(f"--dataset {dataset}: {error.strerror}") from None


class _Table:
    """A column of a Hub dataset, of parquet files or of a saved dataset, read through `datasets`."""

    def __init__(
        self, facts: dict[str, Any], where: str | list[str], files: list[Path], image_column: str | None, **load: Any
    ):
        self.facts = facts
        self.where = where  # a Hub id, or resolved local paths
        self.files = files  # local files to watch for changes
        self.image_column = image_column
        self.load = load  # arguments of load_dataset_builder; none for a saved dataset
        self.hub = facts["kind"] == "hub"

    def state(self) -> list:
        if not self.hub:
            return [[str(file), *_stamp(file)] for file in self.files]
        info = _hub_info(self.where, self.load["revision"])
        self.load["revision"] = self.facts["revision"] = info.sha
        if license := getattr(info.card_data, "license", None):
            self.facts["license"] = license
        return [info.sha]

    def rows(self) -> Any:
        with plain_errors(self.facts["dataset"]):
            return self._column(self._load(streaming=False))

    def stream(self) -> Any:
        with plain_errors(self.facts["dataset"]):
            return self._column(self._load(streaming=True))

    def label(self, row: dict) -> str:
        path = (row["image"] or {}).get("path")
        return PurePosixPath(path).name if path else ""

    def read(self, row: dict) -> bytes | Path:
        cell = row["image"] or {}
        if cell.get("bytes"):
            return cell["bytes"]
        if not (path := cell.get("path")):
            raise Refused("empty")
        if "://" in path:
            from datasets.utils.file_utils import xopen

            if not path.split("::")[-1].startswith("hf://"):
                raise Refused("names an address outside the Hub")
            with xopen(path, "rb") as file:
                return file.read()
        # A dataset by a stranger must not make us read a file of this machine just by naming it.
        if self.hub and not any(Path(path).resolve().is_relative_to(folder) for folder in _download_folders()):
            raise Refused("names a file outside the dataset")
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


def find_source(
    source: str, split: str, config_name: str | None, image_column: str | None, revision: str | None
) -> Source:
    """What `source` means: something on this disk if it exists, or else a dataset on the Hub.

    Raises:
        UserError: nothing there on this disk, a split that it does not have, or a mix of pictures and parquet files.
    """
    path = Path(os.path.expanduser(source))
    pattern = is_pattern(source)
    if revision and (path.exists() or pattern):
        raise UserError(f"dataset revision {revision}: {source} is on this disk; only datasets on the Hub have any")
    if path.is_file() and path.suffix.lower() == ".zip":
        _refuse_table_settings(source, config_name, image_column)
        return _Zip(path, split)
    facts = {"dataset": path.resolve().name, "kind": "parquet", "split": split}
    if path.is_file() or pattern:
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True)) if pattern else [path]
        if not files:
            raise UserError(f"--dataset {source}: no such files")
        if any(file.suffix.lower() != ".parquet" for file in files):
            raise UserError(f"--dataset {source}: expected a folder, a .zip or .parquet files")
        _refuse_table_settings(source, config_name)
        where = [str(file.resolve()) for file in files]
        return _Table(facts, where, files, image_column, path="parquet", data_files=where)
    if not path.is_dir():
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or path.suffix.lower() in (".zip", ".parquet"):
            raise UserError(f"--dataset {source}: no such file or folder")
        facts = {"dataset": source, "kind": "hub", "config": config_name, "split": split}
        load = {"path": source, "name": config_name, "revision": revision}
        return _Table(facts, source, [], image_column, **load)
    files, where = list(_files_below(path)), str(path.resolve())
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        _refuse_table_settings(source, config_name)
        return _Table(facts | {"kind": "saved"}, where, files, image_column)
    tables = [file for file in files if file.suffix.lower() == ".parquet" and file.stem != "metadata"]
    if not tables:
        _refuse_table_settings(source, config_name, image_column)
        return _Folder(path, split)
    if pictures := _picture_names(file.name for file in files):
        raise UserError(
            f"--dataset {source}: holds both pictures ({pictures[0]}, ...) and parquet files ({tables[0].name}, ...); "
            f"name the folder of the pictures, or '{source.rstrip('/')}/**/*.parquet'"
        )
    return _Table(facts | {"config": config_name}, where, files, image_column, path=where, name=config_name)


def _refuse_table_settings(source: str, config_name: str | None, image_column: str | None = None) -> None:
    """Raise a UserError where a setting is given that these pictures have no use for."""
    if config_name:
        raise UserError(f"--dataset-config {config_name}: {source} has no configurations; leave it out")
    if image_column:
        raise UserError(f"--image-column {image_column}: {source} holds picture files, which have no columns")


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in the folder and below, sorted, without hidden ones and without what training runs left there."""
    seen: set[str] = set()  # links may lead round in a circle
    for parent, folders, names in os.walk(folder, followlinks=True):
        where = os.path.realpath(parent)
        if where in seen or (SETTINGS_FILE in names and Path(parent) != folder):
            folders.clear()
            continue
        seen.add(where)
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
    """What changes when a file does: size and time of change; of one that is gone, or a link to nowhere, neither."""
    try:
        status = file.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _stream_of_names(names: list[str]) -> Any:
    from datasets import IterableDataset

    step = max(1, min(64, len(names) // 64))  # a part goes to one worker as a whole
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    return IterableDataset.from_generator(_name_rows, gen_kwargs={"parts": parts})


def _name_rows(parts: list[list[str]]) -> Iterator[dict]:
    for part in parts:
        yield from ({"name": name} for name in part)


# ---------------------------------------------------------------------------------------------- the Hub and `datasets`


class Unreachable(Exception):
    """The Hub did not answer; the message says how."""


def _hub_info(dataset: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi, errors

    from fastgan.hub import limit_silence

    limit_silence()
    try:
        api = HfApi()
        info = api.dataset_info(dataset, revision=revision, timeout=30)
        if info.gated:
            api.auth_check(dataset, repo_type="dataset")  # anyone may read about it, not everyone its files
        return info
    except errors.RevisionNotFoundError:
        raise UserError(f"dataset revision {revision}: {dataset} has no such branch, tag or commit") from None
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
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code == 401:
            raise UserError(
                f"--dataset {dataset}: the Hub does not take the token that is set here: run `hf auth login`, "
                "or leave HF_TOKEN out"
            ) from None
        raise Unreachable(_one_line(error)) from None


@contextmanager
def plain_errors(dataset: str, begun: bool = False) -> Iterator[None]:
    """Turns what `datasets` raises while it finds, fetches and reads a dataset into a UserError of one line.

    Args:
        dataset: its name, for the message.
        begun: whether some of it was read before.
    """
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    # RuntimeError: a repository with a loading script, which is never run; ImportError: a format that needs a package.
    except (DatasetsError, errors.HTTPError, OSError, ValueError, RuntimeError, ImportError) as error:
        if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in (error, error.__cause__)):
            raise UserError(f"--dataset {dataset}: the disk is full; HF_HOME can name another one") from error
        if isinstance(error, ConnectionError | errors.HTTPError):
            since, hint = (" any more", "") if begun else (", and this was not fetched before", NO_FOLDER)
            raise UserError(
                f"--dataset {dataset}: the Hub can't be reached{since} ({_one_line(error)}){hint}"
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
