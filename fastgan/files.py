"""Files of models and runs: their names, and how they are written whole or not at all."""

import json
import os
import re
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fastgan.errors import UserError

# Of a model, and so of a run folder, of best/ in it and of a repository on the Hub.
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
METRICS_FILE = "metrics.json"
NEAREST_FILE = "nearest.png"  # shows training pictures
IMPORT_FILE = "import.json"  # where a converted model is from

# Of a run.
SETTINGS_FILE = "train_config.json"
LOG_FILE = "log.jsonl"
RUN_FILE = "run.json"  # facts that a run notes down about itself, for its card
REPORT_FILE = "report.html"
SKIPPED_FILE = "skipped.tsv"
LOCK_FILE = ".lock"  # there while a run goes on
SAMPLES_FILE = "samples.png"
RECONSTRUCTION_FILE = "reconstruction.png"  # what D's decoders make of real pictures, shown as well
STYLE_MIX_FILE = "style_mix.png"
WALK_FILE = "interpolation.mp4"
SAMPLES = "samples"  # folder of the grids over time
BEST = "best"  # folder of the model with the best KID
CHECKPOINTS = "checkpoints"  # folder

# Of a repository on the Hub, beside the model.
CARD_FILE = "README.md"
TRAINING = "training"  # folder of what only fine-tuning and measuring need
FEATURES_FILE = f"{TRAINING}/features.safetensors"  # of the training pictures; in a run folder too
SHARED_SETTINGS_FILE = f"{TRAINING}/{CONFIG_FILE}"  # what strangers may see of train_config.json

# The two networks as they stood, in a checkpoint and in training/.
GENERATOR_FILE = "generator.safetensors"
DISCRIMINATOR_FILE = "discriminator.safetensors"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())  # in any Unicode encoding: PowerShell redirects as UTF-16
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def quoted(path: Path | str) -> str:
    """A path as a command line takes it."""
    if os.name != "nt":
        return shlex.quote(str(path))
    return str(path) if re.fullmatch(r"[\w.:\\/@,=+-]+", str(path)) else f'"{path}"'


def replace(source: Path, target: Path) -> None:
    """os.replace; on Windows tried again for 3 s while another program, such as a virus scanner, holds either open."""
    for wait in (0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)


def let_all_read(path: Path) -> None:
    """Let everyone on this machine read a file, where the disk knows of such rights; mounted buckets don't."""
    with suppress(OSError):
        path.chmod(0o644)


def not_written(path: Path, error: OSError | SafetensorError) -> UserError:
    """What is said of a file or folder that could not be written."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"{path}: could not be written ({reason}); free some space or choose another folder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: `write` fills a temporary one, which then takes the name `folder`.

    Raises:
        UserError: it could not be written; nothing is left behind, and what was there before still is.
    """
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"  # tempfile's are for one user only
        temporary.mkdir()
        write(temporary)
        if folder.exists():
            replace(folder, old := temporary.with_name(f"{temporary.name}-old"))
            try:
                replace(temporary, folder)
            except OSError:
                replace(old, folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise not_written(folder, error) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def is_taken(folder: Path) -> bool:
    """Whether there is a file of that name, or a folder with more in it than what file managers leave in any."""
    if not folder.is_dir():
        return folder.exists()
    return any(entry.name not in (".DS_Store", "desktop.ini") for entry in folder.iterdir())


def make_folder(folder: Path) -> None:
    """Make a folder that files will be written into, so that one that can't take them is said before the work.

    Raises:
        UserError: it can't be made or written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror}); choose another folder") from None


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Make a file whole or not at all, as :func:`write_folder` does a folder."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from None
    finally:
        if temporary.exists():
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file for people to read, whole or not at all."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """A value as the text of a JSON file for people to read."""
    return json.dumps(value, indent=2) + "\n"
