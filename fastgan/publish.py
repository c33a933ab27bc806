"""Runs to the Hub: one commit each, after the training or beside it, and patient with a Hub in trouble."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, TypeVar

from huggingface_hub import CardData, CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    disable_progress_bars,
    logging,
    parse_ratelimit_headers,
    validate_repo_id,
)

from fastgan.cards import (
    CARD_FILE,
    SECTION,
    draw_card_pictures,
    metrics_of,
    public_log,
    public_metrics,
    public_settings,
    render_model_card,
)
from fastgan.checkpoints import STATE_FILE, best_of_run, checkpoint_of, checkpoints_in, newest_state
from fastgan.errors import UserError
from fastgan.files import (
    BEST,
    CHECKPOINTS,
    CONFIG_FILE,
    DISCRIMINATOR_FILE,
    FEATURES_FILE,
    GENERATOR_FILE,
    IMPORT_FILE,
    LOG_FILE,
    METRICS_FILE,
    NEAREST_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    SETTINGS_FILE,
    SHARED_SETTINGS_FILE,
    STYLE_MIX_FILE,
    TRAINING,
    WALK_FILE,
    WEIGHTS_FILE,
    as_json,
    quoted,
    write_text,
)
from fastgan.hub import PASSING, limit_silence

WAITS = (1, 2, 4, 8, 16)  # seconds between tries when the Hub is in trouble; it may ask for longer ones
LONGEST_WAIT = 300  # seconds that the Hub may ask for
# Files of a repository that belong to the weights beside them, and to no others.
OF_WEIGHTS = {METRICS_FILE, NEAREST_FILE, IMPORT_FILE, SHARED_SETTINGS_FILE, FEATURES_FILE} | {
    f"{TRAINING}/{name}" for name in (GENERATOR_FILE, DISCRIMINATOR_FILE, LOG_FILE)
}
# How weights of any library end.
WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"}
Kind = Literal["model", "dataset", "space"]
T = TypeVar("T")


class Pushed(NamedTuple):
    """What is on the Hub now."""

    url: str
    commit: str
    private: bool
    files: list[str]
    size: int  # bytes
    remarks: list[str]


def say(text: str) -> None:
    """Print a line for a person, above any progress bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


# ---------------------------------------------------------------------- asking the Hub


def _cause(error: BaseException) -> BaseException:
    """What a failed upload of one file hides."""
    inner = error.__cause__
    return inner if isinstance(error, RuntimeError) and isinstance(inner, HTTPError | OSError) else error


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    if isinstance(error, OfflineModeIsEnabled):  # asked for with HF_HUB_OFFLINE, so it will not pass
        return False
    # RuntimeError: of hf_xet, which uploads by itself, and does not tell what may pass.
    passing = HTTPError | ConnectionError | TimeoutError | LocalEntryNotFoundError | RuntimeError
    return isinstance(error, passing | json.JSONDecodeError)  # a gateway in trouble answers with a page


def _answer(error: BaseException) -> str:
    """A failure of the Hub in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return "its answer is no JSON"
    if isinstance(error, HfHubHTTPError):
        text = " ".join((error.server_message or "").split())[:200]
        return f"{error.response.status_code} {text}".strip()
    return " ".join(str(error).split())[:200] or type(error).__name__


def patiently(call: Callable[[], T], what: str, say: Callable[[str], None] = say) -> T:
    """The result of `call`, tried again while the Hub is in trouble.

    Each wait is as long as the Hub asks for or as in WAITS, and is told in one line. Errors that waiting can't mend
    are raised at once, and the last one when all waits are used up.
    """
    for number in range(len(WAITS) + 1):
        limit_silence()  # of a client that the last failure may have made anew
        try:
            return call()
        except (HTTPError, OSError, RuntimeError, json.JSONDecodeError) as error:
            cause = _cause(error)
            if number == len(WAITS) or not _is_passing(cause):
                raise cause from None
            wait = WAITS[number]
            if isinstance(cause, HfHubHTTPError):
                wait = max(wait, min(LONGEST_WAIT, _asked_wait(cause.response.headers)))
            say(f"{what}: the Hub is having trouble ({_answer(cause)}); trying again in {wait:g} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _asked_wait(headers: Mapping[str, str]) -> int:
    """Seconds that an answer of the Hub asks to wait, 0 where it does not."""
    limit = parse_ratelimit_headers(headers)
    if limit and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    asked = headers.get("Retry-After", "")
    return int(asked) if asked.isdecimal() else 0


@contextlib.contextmanager
def _plainly(repo: str) -> Iterator[None]:
    """Turns what the Hub's client raises into a UserError of one line."""
    try:
        yield
    except HFValidationError:
        raise UserError(f"{repo}: no Hub id; it looks like user/name") from None
    except LocalTokenNotFoundError:
        raise UserError(f"{repo}: not signed in; run `hf auth login`, or set HF_TOKEN") from None
    except GatedRepoError:
        raise UserError(f"{repo}: gated; ask for access on its page on the Hub") from None
    except RepositoryNotFoundError:
        raise UserError(f"{repo}: not there, or not for this token; check the name, or run `hf auth login`") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo}: has no such branch") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = {
            401: "; the token is not valid: run `hf auth login`, or set HF_TOKEN",
            403: "; use a token that may write there",
            413: "; a file is too large for it",
        }.get(status, "")
        raise UserError(f"{repo}: the Hub answers {_answer(error)}{hint}") from None
    except (HTTPError, ConnectionError, TimeoutError, LocalEntryNotFoundError, json.JSONDecodeError) as error:
        raise UserError(f"{repo}: the Hub can't be reached ({_answer(error)}); check the connection") from None
    except (OSError, RuntimeError) as error:  # of this disk, or of hf_xet
        raise UserError(f"{repo}: {_answer(error)}") from error
    except ValueError as error:
        if isinstance(error, UserError) or "README.md" not in str(error):
            raise
        raise UserError(f"{repo}: the Hub refuses the card ({' '.join(str(error).split())[:300]})") from None


def prepare_repo(
    repo: str, kind: Kind = "model", public: bool = False, say: Callable[[str], None] = say, **create: Any
) -> tuple[str, bool]:
    """Make sure that there is a repository and that the token may write to it, before any work is done for it.

    Args:
        repo: Hub id; a name alone is one's own.
        kind: "model", "dataset" or "space".
        public: a new repository is one that everyone may see, private otherwise; one that is there stays as it is.
        say: told about waits.
        create: passed on to `HfApi.create_repo`.

    Returns:
        The full id, and whether it is private.

    Raises:
        UserError: no id, no token, one that may not write, or no Hub.
    """
    limit_silence()
    with _plainly(repo):
        validate_repo_id(repo)
        api = HfApi()
        me = patiently(api.whoami, repo, say)
        full = repo if "/" in repo else f"{me['name']}/{repo}"
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UserError(f"{full}: this token can only read; make one that can write, and run `hf auth login`")
        make = {"repo_type": kind, "private": not public, "exist_ok": True, **create}
        patiently(lambda: api.create_repo(full, **make), full, say)
        patiently(lambda: api.auth_check(full, repo_type=kind, write=True), full, say)
        private = bool(patiently(lambda: api.repo_info(full, repo_type=kind), full, say).private)
    return full, private


def make_public(repo: str, kind: Kind = "model", say: Callable[[str], None] = say) -> bool:
    """Let everyone see a repository. Once what was asked for is in it, and not before: it may be somebody's secret.

    Returns:
        Whether everyone can; where not, why is said.
    """
    try:
        with _plainly(repo):
            patiently(lambda: HfApi().update_repo_settings(repo, repo_type=kind, private=False), repo, say)
    except UserError as error:
        say(f"It is there, but still private: {error}")
        return False
    return True


def commit_files(
    repo: str,
    files: dict[str, Path | bytes],
    message: str,
    kind: Kind = "model",
    revision: str | None = None,
    stale: Callable[[str], bool] | None = None,
    say: Callable[[str], None] = say,
) -> str:
    """Put files into a repository in one commit. Returns the commit's id.

    Not `upload_folder`: with Xet that makes several commits of a large folder.

    Args:
        repo: full Hub id.
        files: what goes where.
        message: of the commit.
        kind: "model", "dataset" or "space".
        revision: branch; made when it is not there.
        stale: says of a file there, by its path, that it goes away unless it is among these.
        say: told about waits.

    Raises:
        UserError: the Hub refused them, or was in trouble for too long; then nothing has changed there.
    """
    api = HfApi()

    def commit() -> str:
        changes: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
        if stale:
            there = api.list_repo_files(repo, repo_type=kind, revision=revision)
            changes += [CommitOperationDelete(path) for path in there if stale(path) and path not in files]
        # Made anew for every try: an operation is good for one.
        return api.create_commit(repo, changes, commit_message=message, repo_type=kind, revision=revision).oid

    with _plainly(repo):
        if revision:
            patiently(lambda: api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True), repo, say)
        return patiently(commit, repo, say)


def read_remote(repo: str, path: str, kind: Kind = "model", revision: str | None = None) -> str | None:
    """A text file of a repository; None when it has none."""
    with _plainly(repo), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = {"repo_type": kind, "revision": revision, "local_dir": folder}
        try:
            local = patiently(lambda: HfApi().hf_hub_download(repo, path, **options), repo)
        except (RemoteEntryNotFoundError, RevisionNotFoundError):  # the branch may be one that a push is about to make
            return None
        return Path(local).read_text(encoding="utf-8-sig", errors="replace")


def list_files(repo: str, kind: Kind = "model", revision: str | None = None) -> list[str]:
    """Paths of all files of a repository; none of a branch that a push is about to make.

    Raises:
        UserError: no such repository, or no Hub.
    """
    with _plainly(repo):
        try:
            return patiently(lambda: HfApi().list_repo_files(repo, repo_type=kind, revision=revision), repo)
        except RevisionNotFoundError:
            return []


def how_closed(model: str, revision: str | None = None) -> str:
    """Why a model is not for everyone: "private" or "gated"; empty where it is.

    Raises:
        UserError: the Hub can't be asked.
    """
    with _plainly(model):
        info = patiently(lambda: HfApi().model_info(model, revision=revision), model)
    return "private" if info.private else "gated" if info.gated else ""


def size_text(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


# ---------------------------------------------------------------------- a run


def repository_files(folder: Path, best: bool = False, nearest: bool = False) -> dict[str, Path | bytes]:
    """Everything of a run or an imported model that belongs on the Hub, the card aside, by its path there.

    No path of this machine is among them, nothing that a run folder holds beside these, and no training picture unless
    the sheet of the nearest ones is asked for.

    Raises:
        UserError: the folder holds no model.
    """
    weights = folder / BEST if best else folder
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (weights / name).is_file():
            hint = "it has no best one: it took no KID" if best else "name a run folder or an imported model"
            raise UserError(f"{weights}: no {name} there; {hint}")
    files: dict[str, Path | bytes] = {name: weights / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    files |= {name: folder / name for name in (SAMPLES_FILE, STYLE_MIX_FILE, WALK_FILE) if (folder / name).is_file()}
    checkpoints = checkpoints_in(folder / CHECKPOINTS)
    if best:
        found = best_of_run(folder)
        own = checkpoint_of(folder / CHECKPOINTS, found.images) if found else None
        checkpoints = [path for path in checkpoints if path == own]
    origin = checkpoints[-1] if checkpoints else folder / TRAINING
    for name in (GENERATOR_FILE, DISCRIMINATOR_FILE):
        if (origin / name).is_file():
            files[f"{TRAINING}/{name}"] = origin / name
    if settings := public_settings(folder):
        files[SHARED_SETTINGS_FILE] = as_json(settings).encode()
    elif (folder / SHARED_SETTINGS_FILE).is_file():  # of an imported model
        files[SHARED_SETTINGS_FILE] = folder / SHARED_SETTINGS_FILE
    if log := public_log(folder):
        files[f"{TRAINING}/{LOG_FILE}"] = log.encode()
    if (folder / IMPORT_FILE).is_file():
        files[IMPORT_FILE] = folder / IMPORT_FILE
    if metrics_of(weights):
        files[METRICS_FILE] = public_metrics(weights / METRICS_FILE).encode()
    if (folder / FEATURES_FILE).is_file():  # of the training pictures, so the same for all weights of a run
        files[FEATURES_FILE] = folder / FEATURES_FILE
    if nearest and not (weights / NEAREST_FILE).is_file():
        raise UserError(f"{weights}: no {NEAREST_FILE} there; `fastgan evaluate {quoted(weights)}` draws it")
    return files | ({NEAREST_FILE: weights / NEAREST_FILE} if nearest else {})


def push(
    folder: str | os.PathLike,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    best: bool = False,
    nearest: bool = False,
    draw: bool = True,
    say: Callable[[str], None] = say,
) -> Pushed:
    """Put a run, or an imported model, on the Hub in one commit.

    A card that is there keeps what was written into it by hand. The final card is left in the folder too.

    Args:
        folder: with config.json and model.safetensors.
        repo: Hub id; a name alone is one's own. Made when it is not there.
        public: everyone may see it; a new repository is private otherwise.
        revision: branch; made when it is not there. The main one when not given.
        message: of the commit.
        license: for the card's metadata.
        best: the weights with the best KID rather than the last ones.
        nearest: show the training pictures that drawn ones come nearest to; no training picture is pushed otherwise.
        draw: draw the card's pictures first; else those that the folder has are taken.
        say: told about waits.

    Raises:
        UserError: no model there, no right to write, or the Hub would not have it; then nothing has changed there.
    """
    folder = Path(folder)
    repository_files(folder, best, nearest)  # says what is missing before anything is asked or drawn
    full, private = prepare_repo(repo, public=public, say=say)
    _check_kind(full, revision)
    check_license(full, license, say)
    remarks = []
    remote, local = read_remote(full, CARD_FILE, revision=revision), folder / CARD_FILE
    own = local.read_text(encoding="utf-8-sig", errors="replace") if local.is_file() else None
    differ = bool(remote and own and SECTION.sub("", remote) != SECTION.sub("", own) and _text(remote))
    existing = remote if remote and (_text(remote) or not own) else own
    if draw:
        draw_card_pictures(folder, best)
    files = repository_files(folder, best, nearest)
    networks = f"{TRAINING}/{GENERATOR_FILE}" in files
    card = render_model_card(folder, full, existing, license, best, nearest, networks)
    if existing and _text(existing) and not SECTION.search(existing):
        remarks.append("The card has none of fastgan's marks, so its text was left as it is")
    files = {CARD_FILE: card.encode(), **files}
    commit = commit_files(
        full, files, message or _message(folder), revision=revision, stale=OF_WEIGHTS.__contains__, say=say
    )
    private = private and not (public and make_public(full, say=say))
    if differ:
        before = local.with_name("README.before.md")
        write_text(before, own)
        remarks.append(f"{local} differed from the card on the Hub: what was written there by hand was kept")
        remarks.append(f"What it said before is in {before}")
    write_text(local, card)
    size = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in files.values())
    return Pushed(f"{HfApi().endpoint}/{full}", commit, private, sorted(files), size, remarks)


def _text(card: str) -> str:
    """What a card says below its metadata."""
    return card.split("\n---", 1)[-1].strip() if card.lstrip().startswith("---") else card.strip()


def _check_kind(repo: str, revision: str | None) -> None:
    """Refuse to write over a model of another library."""
    config = read_remote(repo, CONFIG_FILE, revision=revision)
    if config is None:
        there = list_files(repo, revision=revision)
        ours = not any(PurePosixPath(path).suffix in WEIGHTS for path in there)
    else:
        try:
            ours = json.loads(config).get("library") == "fastgan"
        except (json.JSONDecodeError, AttributeError):
            ours = False
    if not ours:
        raise UserError(f"{repo}: holds a model of another library; choose another name")


def check_license(repo: str, license: str | None, say: Callable[[str], None] = say) -> None:
    """Raise a UserError where the Hub would refuse a card for its licence: before the work, not after it."""
    if license is None:
        return
    card = RepoCard(f"---\n{CardData(license=license).to_yaml()}\n---\n")
    with _plainly(repo):
        try:
            patiently(lambda: card.validate(), repo, say)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise UserError(f"{repo}: the Hub does not take this licence ({' '.join(str(error).split())})") from None


def _message(folder: Path) -> str:
    state = newest_state(folder)
    return f"FastGAN generator after {state.kimg:.2f} kimg" if state else "Upload a FastGAN generator"


# ---------------------------------------------------------------------- beside the training


class Publisher:
    """Pushes of a run that go on beside the training, which never waits for them, and one at its end.

    Only the main process has one. Making it checks the token, so that a night of training does not end at a login.

    Args:
        folder: of the run.
        repo, public, license: as in :func:`push`.
        every_save: push at every checkpoint, not only at the end.
        say: prints a line.

    Raises:
        UserError: no right to write there, or no Hub.
    """

    def __init__(
        self,
        folder: Path,
        repo: str,
        public: bool,
        every_save: bool,
        license: str | None = None,
        say: Callable[[str], None] = say,
    ):
        self.folder, self.every_save, self.license, self.say = folder, every_save, license, say
        self.repo, _ = prepare_repo(repo, public=public, say=say)
        self.public = public
        self.best = False  # whether its last push is of best/
        _check_kind(self.repo, None)
        check_license(self.repo, license, say)
        self.done: tuple[float, Pushed] | None = None  # kimg, and what is on the Hub
        self._thread: threading.Thread | None = None
        for leftover in folder.glob(".hub-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def command(self) -> str:
        """What finishes a push that this run could not."""
        more = f" --license {quoted(self.license)}" if self.license else ""
        more += " --best" if self.best else ""
        return f"fastgan push {quoted(self.folder)} {self.repo}{more}{' --public' if self.public else ''}"

    def offer(self, kimg: float) -> None:
        """Push what was just saved, unless a push is still going on; the next save then brings a newer one anyway."""
        if not self.every_save or (self._thread and self._thread.is_alive()):
            return
        try:
            snapshot = self._snapshot()
        except OSError as error:
            self.say(f"{self.repo}: not pushed at {kimg:.2f} kimg ({error.strerror}); training goes on")
            return
        self._thread = threading.Thread(target=self._push, args=(snapshot, kimg), name="push", daemon=True)
        self._thread.start()

    def finish(self, kimg: float, best: bool = False) -> None:
        """Push the finished run, wait for it, and say what is on the Hub.

        Args:
            kimg: where it stands.
            best: push the weights with the best KID rather than the last ones.

        Raises:
            UserError: it could not be pushed; says what is on the Hub and what is not.
        """
        self.best = best
        try:
            if self._thread and self._thread.is_alive():
                self.say(f"{self.repo}: waiting for the push that is under way; Ctrl-C leaves it")
                self._thread.join()
            pushed = push(self.folder, self.repo, public=self.public, license=self.license, best=best, say=self.say)
            self.done = kimg, pushed
        except Exception as error:
            raise UserError(f"{_in_a_line(error, self.repo)}. The run is saved. {self.where_it_is(kimg)}") from error
        except KeyboardInterrupt:
            self.say(self.where_it_is(kimg))
            raise
        self.say(self.where_it_is(kimg))

    def where_it_is(self, kimg: float) -> str:
        """What is on the Hub of a run that stands at `kimg`, and the command that brings the rest."""
        if self.done is None:
            return f"Nothing of this run is on the Hub yet. Push it with: {self.command}"
        at, pushed = self.done
        seen_by = "private" if pushed.private else "public"
        what = "best/ of the run" if self.best and at == kimg else "the run"
        there = f"On the Hub: {pushed.url} ({seen_by}), {what} as it was at {at:.2f} kimg, commit {pushed.commit[:10]}"
        if at == kimg:
            return f"{there}; everything is there"
        return f"{there}. Not on the Hub: what it learned since. Push it with: {self.command}"

    def _push(self, snapshot: Path, kimg: float) -> None:
        told = []

        def tell_once(text: str) -> None:
            if not told:
                told.append(text)
                self.say(f"{text}, beside the training")

        try:
            with _quiet():
                self.done = (
                    kimg,
                    push(snapshot, self.repo, public=self.public, license=self.license, draw=False, say=tell_once),
                )
        except Exception as error:  # whatever it is, it must not reach the training
            self.say(f"{_in_a_line(error, self.repo)}. Training goes on; the next save tries again")
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)

    def _snapshot(self) -> Path:
        """The run as it stands, in links where the disk has them, which later saves don't change."""
        snapshot = Path(tempfile.mkdtemp(prefix=".hub-", dir=self.folder))
        try:
            self._fill(snapshot)
        except OSError:
            shutil.rmtree(snapshot, ignore_errors=True)
            raise
        return snapshot

    def _fill(self, snapshot: Path) -> None:
        names = [CONFIG_FILE, WEIGHTS_FILE, SAMPLES_FILE, CARD_FILE, SETTINGS_FILE, RUN_FILE]
        checkpoint = checkpoints_in(self.folder / CHECKPOINTS)[-1].relative_to(self.folder)
        parts = (GENERATOR_FILE, DISCRIMINATOR_FILE, STATE_FILE)
        for name in [*names, *(str(checkpoint / part) for part in parts)]:
            if (self.folder / name).is_file():
                (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
                _link(self.folder / name, snapshot / name)
        shutil.copy(self.folder / LOG_FILE, snapshot)  # which grows in place, so a link would grow too


def _in_a_line(error: Exception, repo: str) -> str:
    return str(error) if isinstance(error, UserError) else f"{repo}: {type(error).__name__}: {_answer(error)}"


def _link(source: Path, target: Path) -> None:
    if os.name != "nt":  # which lets no file be replaced while any of its names is read
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy(source, target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The Hub's client without bars and warnings, which would disturb those of the training."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with disable_progress_bars():
            yield
    finally:
        logging.set_verbosity(before)
