"""What a run finds in its folder and leaves there, beside its models and checkpoints."""

import glob
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fastgan.checkpoints import checkpoints_in, clear_leftovers
from fastgan.config import TrainConfig, is_pattern
from fastgan.errors import UserError
from fastgan.files import (
    BEST,
    CHECKPOINTS,
    LOCK_FILE,
    LOG_FILE,
    RUN_FILE,
    SAMPLES,
    SETTINGS_FILE,
    SKIPPED_FILE,
    WEIGHTS_FILE,
    make_folder,
    not_written,
    quoted,
    write_json,
    write_text,
)
from fastgan.report import grids_in


def folder_of(config: TrainConfig) -> Path:
    """Where a run with these settings leaves its results."""
    if config.output_dir:
        return Path(config.output_dir)
    path = Path(config.dataset)
    if is_pattern(config.dataset):
        path = next(parent for parent in path.parents if not glob.has_magic(parent.name))
    return Path("runs") / (path.stem if path.suffix.lower() in (".zip", ".parquet") else path.name)


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is.
        resumes: whether it goes on from a checkpoint.
        writes: whether this process is the one that writes.
    """

    def __init__(self, path: Path, resumes: bool, writes: bool):
        self.path, self.resumes, self.writes = path, resumes, writes
        self.opened = False
        self.leftover = False  # whether it holds what a run left that was killed before its first checkpoint
        self.skipped = 0  # pictures that were left out, as far as written down
        # Held while it writes; a process that ends lets it go, which one without the system's locks would not.
        self.lock = FileLock(path / LOCK_FILE, fallback_to_soft=False)

    def open(self, config: TrainConfig) -> list[Path]:
        """Make it, or find the checkpoints in it, and write down the settings.

        Raises:
            UserError: there is nothing to go on from, something would be written over, or a run is going on there.
        """
        path = self.path
        checkpoints = checkpoints_in(path / CHECKPOINTS)
        model = any((folder / WEIGHTS_FILE).exists() for folder in (path, path / BEST))
        if os.path.isabs(config.dataset) and _are_one(path, Path(config.dataset)):
            raise UserError(f"--output-dir {path}: holds the pictures; choose another folder")
        if self.resumes and not checkpoints:
            other = "its model can be a start: --init-from" if model else "start it again without --resume"
            raise UserError(f"--resume {path}: no checkpoint there; {other}")
        if not self.resumes and self.writes and (checkpoints or model):
            again = f"continue it with --resume {quoted(path)}, or " if checkpoints else ""
            what = "run" if checkpoints else "model"
            raise UserError(f"{path}: holds a {what} already; {again}choose another --output-dir")
        if self.writes:
            make_folder(path)
            self._occupy()
            clear_leftovers(path / CHECKPOINTS)
            self.leftover = not self.resumes and (path / SETTINGS_FILE).exists()
            write_json(path / SETTINGS_FILE, config.to_dict())
            self.opened = True
        return checkpoints

    def _occupy(self) -> None:
        """Keep other runs out for as long as this one writes, where the disk can keep them out."""
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path}: a run is going on in it; wait for it, or choose another --output-dir"
            ) from None
        except OSError:  # as on some network drives
            with suppress(OSError):
                (self.path / LOCK_FILE).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let other runs in."""
        if self.lock.is_locked:
            with suppress(OSError):  # Windows deletes nothing that is open; the file alone keeps nobody out
                (self.path / LOCK_FILE).unlink(missing_ok=True)  # while it is ours: later it may be another run's
            self.lock.release(force=True)

    def withdraw(self) -> None:
        """Leave nothing of a run that could not start; one that goes on, and what was there before, stays."""
        if self.resumes or not self.opened:
            return
        self.leave()
        for name in (SKIPPED_FILE,) if self.leftover else (SETTINGS_FILE, SKIPPED_FILE):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # what else is in it was there before
            self.path.rmdir()

    def begin(self) -> None:
        """Clear away what a run left that was killed before its first checkpoint."""
        if self.leftover:
            for file in (self.path / LOG_FILE, self.path / RUN_FILE, *grids_in(self.path / SAMPLES).values()):
                file.unlink(missing_ok=True)

    def record(self, line: dict[str, Any]) -> None:
        """Add a line to the log.

        Raises:
            UserError: it could not be written.
        """
        log = self.path / LOG_FILE
        try:
            with open(log, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise not_written(log, error) from None

    def rewind_log(self, images: int) -> None:
        """Forget log lines of later than so many pictures: the run goes on from there."""
        log = self.path / LOG_FILE
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        write_text(log, "".join(f"{line}\n" for line in lines if _images_of(line) <= images))

    def write_skipped(self, skipped: Sequence[tuple[str, str]]) -> str | None:
        """Write down which pictures were left out and why; says so in a sentence, if that is news."""
        if not self.writes or len(skipped) <= self.skipped:
            return None
        self.skipped = len(skipped)
        write_text(
            self.path / SKIPPED_FILE, "".join(f"{_plain(name)}\t{_plain(reason)}\n" for name, reason in skipped)
        )
        left_out = "1 picture was" if len(skipped) == 1 else f"{len(skipped)} pictures were"
        return f"{left_out} left out; {self.path / SKIPPED_FILE} says why"


def _are_one(a: Path, b: Path) -> bool:
    """Whether two paths lead to one folder; disks of Macs and Windows take "Cats" for "cats"."""
    try:
        return a.samefile(b)
    except OSError:  # one is not there
        return False


def _plain(text: str) -> str:
    """A text that keeps to its cell of a table; what is no text, as in file names of old archives, is spelt out."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())


def _images_of(line: str) -> float:
    """The picture count of a log line; one that was cut off by a kill counts as later than any."""
    try:
        return json.loads(line)["images"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
