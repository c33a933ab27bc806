"""The local Hub as an object: a server in a thread with users, tokens, failures to order, and a memory."""

import os
import re
import socket
import threading
import time
from pathlib import Path

import uvicorn

from .api import User, create_app
from .misbehave import Exchange, Middleware, Rule
from .storage import Repo, Storage


class HubServer:
    """A Hub on the loopback interface, as a context manager.

    Args:
        root: folder of the repositories; one that was used before is read again.
        port: 0 takes a free one.
        users: each gets the tokens hf_write_NAME and hf_read_NAME; the first is `user`.
    """

    def __init__(self, root: Path, port: int = 0, users: tuple[str, ...] = ("tester", "other")):
        self.user = users[0]
        self.token, self.read_token = f"hf_write_{self.user}", f"hf_read_{self.user}"
        self.storage = Storage(root)
        tokens = {f"hf_{role}_{name}": User(name, role) for name in users for role in ("write", "read")}
        self.app = create_app(self.storage, tokens)
        self._middleware = Middleware(self.app)
        # The protocol is named because asyncio turns off Nagle's algorithm, 40 ms an answer, only on such sockets.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._middleware, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the local Hub did not start")
            time.sleep(0.005)
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.should_exit = True
        self._thread.join(30)  # a route that hangs keeps nobody: the thread ends with the process
        self._socket.close()

    def env(self, cache_dir: Path | str, token: str | None = None) -> dict[str, str]:
        """The environment of a subprocess that knows this Hub and no other, with an empty cache in `cache_dir`.

        The token is the write token unless another is given; "" makes a stranger.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
        return kept | self.settings(cache_dir, self.token if token is None else token)

    def settings(self, cache_dir: Path | str, token: str) -> dict[str, str]:
        """Only the variables that make a client use this Hub; the README says why each is needed."""
        settings = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": token, "HF_HOME": str(cache_dir)}
        settings |= dict.fromkeys(
            ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK"), "1"
        )
        return settings | {"NO_PROXY": "127.0.0.1,localhost"}

    @property
    def requests(self) -> list[Exchange]:
        return self._middleware.requests

    def seen(self, pattern: str) -> list[Exchange]:
        """The requests so far whose "METHOD /path" the regular expression is found in."""
        return [exchange for exchange in list(self.requests) if re.search(pattern, str(exchange))]

    def repo(self, id: str, kind: str = "models") -> Repo:
        """The stored repository; kind is "models", "datasets" or "spaces"."""
        repo = self.storage.find(kind, id)
        if repo is None:
            raise KeyError(f"no {kind}/{id} on the local Hub")
        return repo

    def repo_files(self, id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """All files of a revision by their path."""
        repo = self.repo(id, kind)
        files = repo.resolve(revision).files
        return {path: repo.object_path(entry.sha256).read_bytes() for path, entry in files.items()}

    def fail(
        self, pattern: str, status: int, times: int | None = 1, retry_after: int | None = None, code: str | None = None
    ) -> None:
        """Answer the next requests with an HTTP error; `times=None` means for ever."""
        self._middleware.rules.append(Rule(pattern, times, status=status, retry_after=retry_after, code=code))

    def cut(self, pattern: str, after: int = 0, times: int | None = 1) -> None:
        """Close the connection after so many bytes of the answer's body; the request itself is carried out."""
        self._middleware.rules.append(Rule(pattern, times, cut_after=after))

    def slow(self, pattern: str, seconds: float, times: int | None = 1) -> None:
        """Wait before looking at the request."""
        self._middleware.rules.append(Rule(pattern, times, delay=seconds))

    def corrupt(self, pattern: str, times: int | None = 1) -> None:
        """Send a wrong first byte."""
        self._middleware.rules.append(Rule(pattern, times, corrupt=True))

    def heal(self) -> None:
        """Forget all rules of `fail`, `cut`, `slow` and `corrupt`."""
        self._middleware.rules.clear()

    def git_push(self, id: str, files: dict[str, bytes], kind: str = "models") -> str:
        """Commit files as somebody's git would, without the checks of the Python client. Returns the commit id."""
        repo = self.repo(id, kind)
        return repo.commit("main", "By git", "", repo.owner, {k: repo.add_file(v) for k, v in files.items()}).oid

    def announce(self, id: str, path: str, size: int, kind: str = "models") -> None:
        """Give a file that exists a false size in bytes, in file lists and in the answer to HEAD."""
        repo = self.repo(id, kind)
        repo.update(announced=repo.meta["announced"] | {path: size})
