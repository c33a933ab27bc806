"""Repositories on disk: files by their sha256, commits as JSON, so that every revision ever pushed can be read again.

ROOT/models/user/name/repo.json            visibility, branches, tags, Space settings
ROOT/models/user/name/commits/<oid>.json   one commit with its whole file list
ROOT/models/user/name/objects/<sha256>     the bytes
"""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LFS_SUFFIXES = "arrow bin ckpt gz h5 npy npz onnx parquet pt pth safetensors tar tgz zip".split()
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
SPACE_README = "---\ntitle: {name}\nsdk: {sdk}\nemoji: 🐠\ncolorFrom: blue\ncolorTo: green\n---\n"


class HubError(Exception):
    """An answer other than success: HTTP status, message and the code that clients turn into an exception class."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclass(frozen=True)
class Entry:
    """One file of a commit; `oid` is its git blob id, which for an LFS file is that of the pointer."""

    size: int
    sha256: str
    oid: str
    lfs: bool
    commit: str = ""  # the last commit that changed the file

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Entry]


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_entry(sha256: str, size: int) -> Entry:
    return Entry(size=size, sha256=sha256, oid=git_blob_id(lfs_pointer(sha256, size)), lfs=True)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Repo:
    """One repository folder; its settings are read from and written to disk at each use."""

    def __init__(self, folder: Path, kind: str, id: str):
        self.folder, self.kind, self.id = folder, kind, id

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def web_path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    @property
    def meta(self) -> dict:
        return json.loads((self.folder / "repo.json").read_text())

    def update(self, **changes) -> None:
        self._write("repo.json", self.meta | changes)

    def _write(self, name: str, value: dict) -> None:
        part = self.folder / f"{name}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value))
        part.replace(self.folder / name)  # a reader in another thread sees the old file or the new one

    def object_path(self, sha256: str) -> Path:
        return self.folder / "objects" / sha256

    def has_object(self, sha256: str, size: int) -> bool:
        path = self.object_path(sha256)
        return path.is_file() and path.stat().st_size == size

    def add_file(self, data: bytes) -> Entry:
        """Keep a small file's bytes and get its entry."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.object_path(sha256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return Entry(size=len(data), sha256=sha256, oid=git_blob_id(data), lfs=False)

    def load(self, oid: str) -> Commit:
        value = json.loads((self.folder / "commits" / f"{oid}.json").read_text())
        return Commit(**value | {"files": {path: Entry(**entry) for path, entry in value["files"].items()}})

    def head(self, branch: str) -> Commit:
        """The last commit of a branch, as it is stored."""
        branches = self.meta["branches"]
        if branch not in branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return self.load(branches[branch])

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag or (shortened) commit id names, with falsely announced sizes put in."""
        meta = self.meta
        oid = (meta["branches"] | meta["tags"]).get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((path.stem for path in self.folder.glob(f"commits/{revision}*.json")), None)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit = self.load(oid)
        for path, size in meta["announced"].items():
            if path in commit.files:
                commit.files[path] = replace(commit.files[path], size=size, lfs=True)
        return commit

    def history(self, commit: Commit) -> Iterator[Commit]:
        yield commit
        while commit.parent:
            commit = self.load(commit.parent)
            yield commit

    def commit(self, branch: str, title: str, message: str, author: str, changes: dict[str, Entry | None]) -> Commit:
        """Add a commit to a branch; `changes` maps each path to its new entry, or to None when it goes away."""
        meta = self.meta
        parent = meta["branches"].get(branch)
        files, oid = (self.load(parent).files if parent else {}), secrets.token_hex(20)
        for path, entry in changes.items():
            if entry is None:
                del files[path]
            else:
                files[path] = replace(entry, commit=oid)
        commit = Commit(oid, parent, title, message, author, now(), dict(sorted(files.items())))
        self._write(f"commits/{oid}.json", asdict(commit))
        self.update(branches=meta["branches"] | {branch: oid})
        return commit


class Storage:
    """All repositories below one root folder."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def find(self, kind: str, id: str) -> Repo | None:
        folder = self.root / kind / id
        return Repo(folder, kind, id) if REPO_ID.fullmatch(id) and (folder / "repo.json").is_file() else None

    def list(self, kind: str) -> list[Repo]:
        paths = sorted((self.root / kind).glob("*/*/repo.json"))
        return [Repo(path.parent, kind, "/".join(path.parts[-3:-1])) for path in paths]

    def create(self, kind: str, id: str, private: bool, author: str, sdk: str | None = None) -> Repo:
        """A new repository with the first commit that the Hub makes by itself."""
        if not REPO_ID.fullmatch(id):
            raise HubError(400, f"Invalid repo name: {id}")
        repo = Repo(self.root / kind / id, kind, id)
        meta = {"private": private, "gated": False, "created": now(), "branches": {}, "tags": {}, "announced": {}}
        meta |= {"sdk": sdk, "hardware": "cpu-basic", "variables": {}, "secrets": {}} if kind == "spaces" else {}
        repo._write("repo.json", meta)
        files = {".gitattributes": repo.add_file(GITATTRIBUTES.encode())}
        if sdk:
            files["README.md"] = repo.add_file(SPACE_README.format(name=id.split("/")[1], sdk=sdk).encode())
        repo.commit("main", "initial commit", "", author, files)
        return repo

    def delete(self, repo: Repo) -> None:
        shutil.rmtree(repo.folder)

    def move(self, repo: Repo, id: str) -> None:
        target = self.root / repo.kind / id
        target.parent.mkdir(parents=True, exist_ok=True)
        repo.folder.rename(target)
