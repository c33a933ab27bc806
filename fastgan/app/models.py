"""Models for many visitors: checked before they are fetched, loaded once, the least recently used dropped first."""

import logging
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import torch

from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.files import CONFIG_FILE, WEIGHTS_FILE, read_json
from fastgan.hub import (
    MAX_CONFIG,
    PASSING,
    commit_of,
    fetch,
    find_device,
    from_pretrained,
    limit_silence,
    weight_bytes,
)
from fastgan.models import Generator

log = logging.getLogger("fastgan.app")

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([A-Za-z0-9][\w./-]{0,199}))?", re.ASCII)
MAX_CACHE = 2 * 2**30 // 3  # bytes of weights kept; the folded copies that draw take up to twice as much again
MAX_MODEL = 2**30  # bytes of weights of one model; the published network at 1024 pixels has 0.12 * 2**30
MAX_SIDE = 2048  # of a square picture, in pixels; bounds what one picture costs
RECHECK = 60  # seconds for which a visitor's right to read a repository, and what its branch points at, is trusted


class Found(NamedTuple):
    """A model that is ready to draw, and what a picture's metadata says of it."""

    generator: Generator
    name: str  # Hub id, or the name of the folder
    revision: str  # the commit on the Hub; empty for others
    where: str  # what the model box says
    folder: Path | None = None  # on this disk


class ModelCache:
    """Generators by what a model box says: "user/model", "user/model@revision", or where that is allowed, a folder.

    Args:
        load: called as `load(model, revision=..., token=...)`; gives a generator in eval mode.
        given: models named by whoever started the app. These may be folders, and are read with the saved login; so are
            the commits that they have stood for, which links name.
        allow_local: any text may name a folder. For one's own machine only.
        max_bytes: of weights kept in memory.
        device: what draws; "auto" is the GPU where there is one. Not for what `load` alone knows of.
    """

    def __init__(
        self,
        load: Callable[..., Generator] = from_pretrained,
        given: Sequence[str] = (),
        allow_local: bool = False,
        max_bytes: int = MAX_CACHE,
        device: str | torch.device = "cpu",
    ):
        self._device = find_device(device)
        self._load, self._given, self._allow_local, self._max_bytes = load, set(given), allow_local, max_bytes
        self._shown: set[tuple[str, str]] = set()  # models and commits that given names have stood for
        self._lock = threading.Lock()
        self._loads: OrderedDict[tuple, Future] = OrderedDict()
        self._commits: dict[tuple, tuple[float, str]] = {}

    def get(self, text: str, token: str | None = None) -> Found:
        """The model, loaded at most once however many ask at a time.

        Args:
            text: what the model box says.
            token: the visitor's own; a private model is found with it and by nobody else.

        Raises:
            UserError: not an id, no such model, not allowed, too large, or not a fastgan model.
        """
        text = (text or "").strip()
        if (self._allow_local or text in self._given) and os.path.isdir(text):
            folder = Path(text).resolve()
            weights = folder / WEIGHTS_FILE
            # A run that is still training writes new weights into the same folder.
            key = (str(folder), weights.stat().st_mtime_ns if weights.exists() else 0)
            return Found(self._once(key, lambda: self._read(str(folder), folder.name)), folder.name, "", text, folder)
        if self._load is not from_pretrained and text:  # it knows of models that the Hub doesn't
            name, _, revision = text.partition("@")
            generator = self._once((text, token), lambda: self._load(name, revision=revision or None, token=token))
            return Found(generator, name, "", text)
        model, revision = parse_model(text)
        allowed, commit = self._allowed(text, model, revision, token)
        generator = self._once((model, commit), lambda: self._read(model, model, commit, allowed))
        return Found(generator, model, commit, text)

    def _allowed(
        self, text: str, model: str, revision: str | None, token: str | None
    ) -> tuple[str | bool | None, str]:
        """Whose right to read the model is used, and the commit that its revision stands for.

        That is this server's login for what whoever started the app named, or else the visitor's own, or nobody's
        (False: not even the login saved on this machine).
        """
        if self._allow_local or text in self._given or (model, revision) in self._shown:
            try:
                commit = self._commit(model, revision, None)
                if text in self._given:
                    self._shown.add((model, commit))
                return None, commit
            except UserError:
                if not token:
                    raise
        return token or False, self._commit(model, revision, token or False)

    def path(self, found: Found, file: str, max_bytes: int, token: str | None = None) -> Path | None:
        """A further file of a model that :meth:`get` gave, fetched when needed; None when it has none or too large.

        Raises:
            UserError: the Hub can't be asked just now.
        """
        from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, RemoteEntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        if not found.revision:
            path = found.folder / file if found.folder else None  # what others load has no files for strangers
            return path if path and path.is_file() and path.stat().st_size <= max_bytes else None
        allowed, _ = self._allowed(found.where, *parse_model(found.where), token)
        try:
            info = HfApi(token=allowed).get_paths_info(found.name, [file], revision=found.revision)
            if not info or not isinstance(info[0], RepoFile) or info[0].size > max_bytes:
                return None
            return Path(hf_hub_download(found.name, file, revision=found.revision, token=allowed))
        except RemoteEntryNotFoundError:
            return None
        except (OSError, HTTPError) as error:
            if not isinstance(error, HfHubHTTPError) or error.response.status_code in PASSING:
                cached = try_to_load_from_cache(found.name, file, revision=found.revision)
                if isinstance(cached, str):
                    return Path(cached) if os.path.getsize(cached) <= max_bytes else None
                if cached is not None:  # known not to be there
                    return None
            raise UserError(
                f"{found.name}: the Hub can't be asked for {file} just now; try again in a minute"
            ) from None

    def _commit(self, model: str, revision: str | None, token: str | bool | None) -> str:
        """The commit that a revision stands for; asking the Hub for it is also what proves the right to read it."""
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        key = (model, revision, token)
        known = self._commits.get(key)
        if known and time.monotonic() - known[0] < RECHECK:
            return known[1]
        where = f"{model}@{revision}" if revision else model
        limit_silence()
        api = HfApi(token=token)
        try:
            info = api.model_info(model, revision=revision, timeout=10)
            if info.gated:  # anyone may ask about it, but not read it
                api.auth_check(model)
            commit = info.sha
        except GatedRepoError:
            raise UserError(f"{where}: gated; sign in here once its owner has given you access on the Hub") from None
        except RepositoryNotFoundError:
            raise UserError(f"{where}: no such model on the Hub, or it is private") from None
        except RevisionNotFoundError:
            raise UserError(f"{where}: that model has no such branch, tag or commit") from None
        except (OSError, HTTPError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in PASSING:
                reason = error.server_message or error.response.status_code
                raise UserError(f"{where}: the Hub refused ({reason})") from None
            if known:  # who could read it a while ago still may
                return known[1]
            # Offline, whoever may read everything on this machine still gets what was downloaded before.
            cached = try_to_load_from_cache(model, CONFIG_FILE, revision=revision) if token is None else None
            if not isinstance(cached, str):
                raise UserError(f"{where}: the Hub can't be reached just now; try again in a minute") from None
            return commit_of(Path(cached), CONFIG_FILE)
        with self._lock:
            if len(self._commits) >= 1000:
                self._commits.clear()
            self._commits[key] = (time.monotonic(), commit)
        return commit

    def _read(self, model: str, name: str, commit: str | None = None, token: str | bool | None = None) -> Generator:
        config_path = None
        try:
            if commit is None:
                config_path = Path(model) / CONFIG_FILE
            else:
                config_path = fetch(model, CONFIG_FILE, MAX_CONFIG, commit, token=token)
            if config_path is None:
                raise UserError(f"{name}: has no {CONFIG_FILE}, so it is not a fastgan model")
            check_affordable(ModelConfig.from_dict(read_json(config_path)))
            return self._load(model, revision=commit, token=token).to(self._device)
        except UserError as error:
            # Where this server keeps its files is nobody else's business.
            text = str(error)
            for folder in (model, config_path.parent if config_path else model):
                text = text.replace(f"{folder}{os.sep}", f"{name}: ")
            raise UserError(text) from None
        except OSError:
            raise UserError(f"{name}: has no {CONFIG_FILE} to be read, so it is not a fastgan model") from None

    def _once(self, key: tuple, read: Callable[[], Generator]) -> Generator:
        with self._lock:
            mine = key not in self._loads
            if mine:
                self._loads[key] = Future()
            future = self._loads[key]
            self._loads.move_to_end(key)
        if mine:
            try:
                future.set_result(read())
            except BaseException as error:
                with self._lock:
                    self._loads.pop(key, None)
                future.set_exception(error)
            else:
                self._trim()
        return future.result()

    def _trim(self) -> None:
        """Drop the models that were not used for longest; what a Space fetched for strangers leaves its disk too."""
        dropped = []
        with self._lock:
            ready = {k: weight_bytes(f.result()) for k, f in self._loads.items() if f.done() and not f.exception()}
            total = sum(ready.values())
            for key in list(ready)[:-1]:  # the newest stays, whatever its size
                if total <= self._max_bytes:
                    break
                total -= ready[key]
                del self._loads[key]
                dropped.append(key)
        given = {commit for _, commit in self._shown}
        commits = [str(version) for _, version in dropped if isinstance(version, str) and version not in given]
        if commits and os.environ.get("SPACE_ID"):
            from huggingface_hub import scan_cache_dir

            try:
                scan_cache_dir().delete_revisions(*commits).execute()
            except (OSError, ValueError):  # somebody is reading; the next one that is dropped has another try
                log.exception("the Hub's cache could not be trimmed")


def parse_model(text: str) -> tuple[str, str | None]:
    """Hub id and revision from "user/model" or "user/model@revision".

    Raises:
        UserError: it is neither.
    """
    if not text:
        raise UserError("Which model? Type a Hub id like user/fastgan-anime")
    match = HUB_ID.fullmatch(text)
    if not match or ".." in text or "--" in match[1]:
        raise UserError(f'"{text[:100]}" is no Hub id; it looks like user/fastgan-anime or user/fastgan-anime@main')
    return match[1], match[2]


def check_affordable(config: ModelConfig) -> None:
    """Raise a UserError when a model is larger than the app loads for a visitor."""
    with torch.device("meta"):
        needed = weight_bytes(Generator(config))
    if needed > MAX_MODEL or config.height * config.width > MAX_SIDE**2:
        raise UserError(
            f"That model draws {config.width}x{config.height} pixels with {needed / 2**20:,.0f} MiB of weights; "
            f"this page opens models up to {MAX_SIDE}x{MAX_SIDE} and {MAX_MODEL / 2**20:,.0f} MiB"
        )
