"""The Hub's routes, as far as `huggingface_hub` 2.4 and `datasets` 5.2 call them."""

import base64
import fnmatch
import hashlib
import hmac
import json
import secrets
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlencode

import yaml
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from . import cards
from .storage import KINDS, Commit, Entry, HubError, Repo, Storage, lfs_entry

MAX_REGULAR_SIZE = 10_000_000  # bytes; a larger file goes to LFS whatever it holds
REPO = "/api/{kind}/{ns}/{name}"
router = APIRouter()


class User(NamedTuple):
    name: str
    role: str  # "read" or "write"


def create_app(storage: Storage, tokens: dict[str, User]) -> FastAPI:
    """The Hub over one storage; its `state.page_size` is the number of entries in one page of a file list.

    Paths reach the routes still quoted (see `misbehave.Middleware`), because `refs%2Fconvert%2Fparquet` is one
    revision while `refs/convert` would be two parts of a path.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.storage, app.state.tokens, app.state.page_size = storage, tokens, 1000
    app.state.signing_key = secrets.token_bytes(32)
    app.include_router(router)
    app.add_exception_handler(HubError, answer_error)
    app.add_exception_handler(HTTPException, lambda request, error: answer_error(request, no_route(error)))
    return app


def no_route(error: HTTPException) -> HubError:
    return HubError(error.status_code, f"The local Hub has no such endpoint: {error.detail}")


def answer_error(request: Request, error: HubError) -> Response:
    headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
    return JSONResponse({"error": error.message}, error.status, headers | error.headers)


def param(request: Request, name: str) -> str:
    return unquote(request.path_params.get(name, ""))


def flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true")


def endpoint(request: Request) -> str:
    return f"http://{request.headers['host']}"


def asker(request: Request) -> User | None:
    """Who sent the request, None for a stranger without a token."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and token not in request.app.state.tokens:
        raise HubError(401, "Invalid credentials in Authorization header")
    return request.app.state.tokens[token] if token else None


def require_write(user: User | None, namespace: str) -> User:
    if user is None:
        raise HubError(401, "Invalid username or password.")
    if user.role != "write":
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
    if user.name != namespace:
        raise HubError(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
    return user


def visible(repo: Repo, user: User | None) -> bool:
    return not repo.meta["private"] or (user is not None and user.name == repo.owner)


def open_repo(request: Request, write: bool = False, files: bool = False, id: str = "", kind: str = "") -> Repo:
    """The repository that a URL names, once the asker's rights to see it, read its files or write are checked."""
    user = asker(request)
    kind = kind or param(request, "kind") or "models"
    repo = request.app.state.storage.find(kind, id or f"{param(request, 'ns')}/{param(request, 'name')}")
    if repo is None or not visible(repo, user):
        if user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    if files and repo.meta["gated"] and (user is None or user.name != repo.owner):
        raise HubError(403 if user else 401, f"Access to {repo.id} is restricted.", "GatedRepo")
    if write:
        require_write(user, repo.owner)
    return repo


@router.get("/api/whoami-v2")
async def whoami(request: Request):
    user = asker(request)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": user.role, "role": user.role}
    auth = {"type": "access_token", "accessToken": token}
    return {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "orgs": [], "auth": auth}


async def named_in_body(request: Request) -> tuple[dict, str, str, User | None]:
    """The JSON body of a call on /api/repos, with the kind and id that it names."""
    body, user = await request.json(), asker(request)
    kind = f"{body.get('type') or 'model'}s"
    if kind not in KINDS:
        raise HubError(400, f"Unknown repository type: {body['type']}")
    return body, kind, f"{body.get('organization') or (user and user.name)}/{body.get('name')}", user


@router.post("/api/repos/create")
async def create_repo(request: Request):
    body, kind, id, user = await named_in_body(request)
    require_write(user, id.split("/")[0])
    storage = request.app.state.storage
    if existing := storage.find(kind, id):
        url = f"{endpoint(request)}/{existing.web_path}"
        message = f"You already created this {KINDS[kind]} repo"
        return JSONResponse({"error": message, "url": url}, 409, {"X-Error-Message": message})
    repo = storage.create(kind, id, body.get("visibility") == "private", user.name, body.get("sdk"))
    if kind == "spaces":
        pairs = {
            part: {item["key"]: item["value"] for item in body.get(part, [])} for part in ("variables", "secrets")
        }
        repo.update(**pairs, hardware=body.get("hardware", "cpu-basic"))
    return {"url": f"{endpoint(request)}/{repo.web_path}", "name": id, "id": id}


@router.delete("/api/repos/delete")
async def delete_repo(request: Request):
    _, kind, id, _ = await named_in_body(request)
    request.app.state.storage.delete(open_repo(request, write=True, id=id, kind=kind))


@router.post("/api/repos/move")
async def move_repo(request: Request):
    body, kind, _, user = await named_in_body(request)
    repo = open_repo(request, write=True, id=body["fromRepo"], kind=kind)
    require_write(user, body["toRepo"].split("/")[0])
    if request.app.state.storage.find(kind, body["toRepo"]):
        raise HubError(409, f"{body['toRepo']} exists already")
    request.app.state.storage.move(repo, body["toRepo"])


@router.put(REPO + "/settings")
async def settings(request: Request):
    repo, body = open_repo(request, write=True), await request.json()
    if "visibility" in body:
        repo.update(private=body["visibility"] == "private")
    if "gated" in body:
        repo.update(gated=body["gated"])
    return {}


def readme_of(repo: Repo, commit: Commit) -> str:
    entry = commit.files.get("README.md")
    return repo.object_path(entry.sha256).read_text() if entry else ""


def info(repo: Repo, commit: Commit, blobs: bool = False) -> dict:
    """What `model_info`, `dataset_info` and `space_info` are told."""
    meta = repo.meta
    try:
        card = cards.metadata(readme_of(repo, commit))
    except (yaml.YAMLError, ValueError):
        card = {}
    value = {"_id": repo.id, "id": repo.id, "author": repo.owner, "sha": commit.oid, "lastModified": commit.date}
    value |= {"createdAt": meta["created"], "private": meta["private"], "gated": meta["gated"], "disabled": False}
    value |= {"downloads": 0, "likes": 0, "tags": cards.tags(card), "siblings": []}
    value |= {"cardData": json.loads(json.dumps(card, default=str))}
    if repo.kind == "models":
        value |= {"modelId": repo.id} | {key: card[key] for key in ("pipeline_tag", "library_name") if key in card}
        value |= {"model-index": value["cardData"].get("model-index")}
    if repo.kind == "spaces":
        value |= {"sdk": card.get("sdk", meta["sdk"]), "runtime": runtime(meta)}
    for path, entry in commit.files.items():
        sibling = {"rfilename": path}
        if blobs:
            sibling |= {"size": entry.size, "blobId": entry.oid}
            lfs = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
            sibling |= {"lfs": lfs} if entry.lfs else {}
        value["siblings"].append(sibling)
    return value


def runtime(meta: dict) -> dict:
    return {"stage": "RUNNING", "hardware": {"current": meta["hardware"], "requested": meta["hardware"]}}


@router.get("/api/{kind}")
async def list_repos(request: Request):
    user, query = asker(request), request.query_params
    if param(request, "kind") not in KINDS:
        raise HubError(404, "Not found")
    found = [repo for repo in request.app.state.storage.list(param(request, "kind")) if visible(repo, user)]
    found = [repo for repo in found if query.get("author", repo.owner) == repo.owner]
    found = [repo for repo in found if query.get("search", "").lower() in repo.id.lower()]
    infos = [info(repo, repo.resolve("main")) for repo in found]
    wanted = set(query.getlist("filter"))
    return [value for value in infos if wanted <= set(value["tags"])][: int(query.get("limit", 1000))]


@router.get(REPO)
@router.get(REPO + "/revision/{rev}")
async def repo_info(request: Request):
    repo = open_repo(request)
    return info(repo, repo.resolve(param(request, "rev") or "main"), flag(request, "blobs"))


def listed(repo: Repo, commit: Commit, path: str, entry: Entry | None, expand: bool) -> dict:
    """One row of a file list; without an entry it is a folder."""
    if entry is None:
        inside = {name: file for name, file in commit.files.items() if name.startswith(f"{path}/")}
        oid = hashlib.sha1(json.dumps([(name, file.oid) for name, file in inside.items()]).encode()).hexdigest()
        row, last = {"type": "directory", "oid": oid, "size": 0, "path": path}, max(inside.values(), key=date_in(repo))
    else:
        row, last = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}, entry
        lfs = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        row |= {"lfs": lfs} if entry.lfs else {}
    if expand:
        changed = repo.load(last.commit)
        row["lastCommit"] = {"id": changed.oid, "title": changed.title, "date": changed.date}
    return row


def date_in(repo: Repo):
    return lambda entry: repo.load(entry.commit).date


def folders(commit: Commit) -> set[str]:
    return {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}


@router.get(REPO + "/tree/{rev}")
@router.get(REPO + "/tree/{rev}/{path:path}")
async def tree(request: Request):
    repo = open_repo(request)
    commit, base = repo.resolve(param(request, "rev")), param(request, "path").strip("/")
    everything = folders(commit)
    if base and base not in everything:
        raise HubError(404, f"{base} does not exist on {param(request, 'rev')}", "EntryNotFound")
    rows: dict[str, Entry | None] = dict.fromkeys(everything) | commit.files
    deep = flag(request, "recursive")
    paths = [path for path in sorted(rows) if not base or path.startswith(f"{base}/")]
    paths = [path for path in paths if deep or "/" not in path[len(base) :].strip("/")]
    start, size = int(request.query_params.get("cursor", 0)), request.app.state.page_size
    page = [listed(repo, commit, path, rows[path], flag(request, "expand")) for path in paths[start : start + size]]
    more = urlencode(dict(request.query_params) | {"cursor": start + size})
    link = {"Link": f'<{endpoint(request)}{request.url.path}?{more}>; rel="next"'} if start + size < len(paths) else {}
    return JSONResponse(page, headers=link)


@router.post(REPO + "/paths-info/{rev}")
async def paths_info(request: Request):
    repo, form = open_repo(request), parse_qs((await request.body()).decode())
    commit, expand = repo.resolve(param(request, "rev")), form.get("expand", [""])[0].lower() == "true"
    rows: dict[str, Entry | None] = dict.fromkeys(folders(commit)) | commit.files
    paths = [path.strip("/") for path in form.get("paths", [])]
    return [listed(repo, commit, path, rows[path], expand) for path in paths if path in rows]


@router.get(REPO + "/refs")
async def refs(request: Request):
    meta = open_repo(request).meta

    def rows(names: dict[str, str], prefix: str) -> list[dict]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in names.items()]

    found = {"branches": rows(meta["branches"], "refs/heads/"), "tags": rows(meta["tags"], "refs/tags/")}
    return found | {"converts": [], "pullRequests": []}


@router.get(REPO + "/commits/{rev}")
async def commits(request: Request):
    repo = open_repo(request)
    return [
        {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
        for c in repo.history(repo.resolve(param(request, "rev")))
    ]


def set_ref(repo: Repo, group: str, name: str, oid: str) -> None:
    if name in repo.meta[group]:
        raise HubError(409, f"Reference already exists: {name}")
    repo.update(**{group: repo.meta[group] | {name: oid}})


def drop_ref(repo: Repo, group: str, name: str) -> None:
    names = repo.meta[group]
    if name not in names:
        raise HubError(404, f"Reference not found: {name}", "RevisionNotFound")
    repo.update(**{group: {other: oid for other, oid in names.items() if other != name}})


@router.post(REPO + "/branch/{rev}")
async def create_branch(request: Request):
    repo, body = open_repo(request, write=True), await request.json()
    set_ref(repo, "branches", param(request, "rev"), repo.resolve(body.get("startingPoint", "main")).oid)


@router.delete(REPO + "/branch/{rev}")
async def delete_branch(request: Request):
    repo = open_repo(request, write=True)
    if param(request, "rev") == "main":
        raise HubError(403, "The main branch cannot be deleted")
    drop_ref(repo, "branches", param(request, "rev"))


@router.post(REPO + "/tag/{rev}")
async def create_tag(request: Request):
    repo, body = open_repo(request, write=True), await request.json()
    set_ref(repo, "tags", body["tag"], repo.resolve(param(request, "rev")).oid)


@router.delete(REPO + "/tag/{rev}")
async def delete_tag(request: Request):
    drop_ref(open_repo(request, write=True), "tags", param(request, "rev"))


@router.get(REPO + "/auth-check")
@router.get(REPO + "/auth-check/write")
async def auth_check(request: Request):
    open_repo(request, write=request.url.path.endswith("/write"), files=True)


@router.post("/api/validate-yaml")
async def validate_yaml(request: Request):
    body = await request.json()
    errors, warnings = cards.faults(body["content"], body["repoType"])
    rows = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return JSONResponse(rows, 400 if errors else 200)


@router.get(REPO + "/xet-{role}-token/{rev}")
async def xet_token(request: Request):
    raise HubError(400, "The local Hub stores LFS files only: set HF_HUB_DISABLE_XET=1 before starting the client.")


@router.post(REPO + "/preupload/{rev}")
async def preupload(request: Request):
    """Whether each file goes into the commit itself or through LFS, by .gitattributes, size and first bytes."""
    repo, body = open_repo(request, write=True), await request.json()
    files = repo.head(param(request, "rev")).files
    attributes = files.get(".gitattributes")
    lines = repo.object_path(attributes.sha256).read_text().splitlines() if attributes else []
    patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
    rows = []
    for file in body["files"]:
        binary = b"\0" in base64.b64decode(file.get("sample", ""))
        matched = any(fnmatch.fnmatch(PurePosixPath(file["path"]).name, pattern) for pattern in patterns)
        lfs = file["size"] > 0 and (matched or binary or file["size"] > MAX_REGULAR_SIZE)
        row = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        rows.append(row | {"oid": files[file["path"]].etag if file["path"] in files else None})
    return {"files": rows}


@router.post(REPO + "/commit/{rev}")
async def commit(request: Request):
    """Apply the lines of a commit: all of them, or none when one is refused."""
    repo, branch = open_repo(request, write=True), param(request, "rev")
    if flag(request, "create_pr"):
        raise HubError(400, "The local Hub has no pull requests.")
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    head, header, changes = repo.head(branch), {}, {}
    for line in lines:
        key, value = line["key"], line["value"]
        if key == "header":
            header = value
        elif key == "file":
            changes[value["path"]] = repo.add_file(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            stored = repo.object_path(value["oid"])
            size = value.get("size", stored.stat().st_size if stored.is_file() else -1)
            if not repo.has_object(value["oid"], size):
                raise HubError(400, f"LFS object of {value['path']} was not uploaded or has another size")
            changes[value["path"]] = lfs_entry(value["oid"], size)
        else:
            path = value["path"].rstrip("/")
            inside = [name for name in head.files if name.startswith(f"{path}/")] if key == "deletedFolder" else [path]
            if not inside or not set(inside) <= set(head.files):
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            changes |= {name: changes.get(name) for name in inside}
    if not head.oid.startswith(header.get("parentCommit", "")):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    made = repo.commit(branch, header["summary"], header.get("description", ""), repo.owner, changes)
    url = f"{endpoint(request)}/{repo.web_path}/commit/{made.oid}"
    return {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""}


def signature(request: Request, method: str, path: str) -> str:
    return hmac.new(request.app.state.signing_key, f"{method} {path}".encode(), "sha256").hexdigest()


def signed_url(request: Request, method: str, repo: Repo, sha256: str, size: int) -> str:
    """Where an LFS object is read or written without a token.

    It names the loopback by its other name (localhost for 127.0.0.1), so that clients see a foreign host as they do
    with the real CDN: they stop at the redirect and leave the token out.
    """
    name, _, port = request.headers["host"].partition(":")
    name = {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}.get(name, name)
    path = f"/cdn/{repo.kind}/{repo.id}/{sha256}/{size}"
    return f"http://{name}:{port or 80}{path}?signature={signature(request, method, path)}"


def open_signed(request: Request) -> tuple[Repo, str, int]:
    method = "GET" if request.method == "HEAD" else request.method
    if request.query_params.get("signature") != signature(request, method, request.url.path):
        raise HubError(403, "Signature does not match")
    repo = request.app.state.storage.find(param(request, "kind"), f"{param(request, 'ns')}/{param(request, 'name')}")
    if repo is None:
        raise HubError(404, "Repository not found", "RepoNotFound")
    return repo, param(request, "sha256"), int(param(request, "size"))


@router.api_route("/cdn/{kind}/{ns}/{name}/{sha256}/{size}", methods=["GET", "HEAD"])
async def download_object(request: Request):
    repo, sha256, _ = open_signed(request)
    return FileResponse(repo.object_path(sha256), headers={"ETag": f'"{sha256}"'}, media_type="binary/octet-stream")


@router.put("/cdn/{kind}/{ns}/{name}/{sha256}/{size}")
async def upload_object(request: Request):
    repo, sha256, size = open_signed(request)
    part = repo.object_path(f"{secrets.token_hex(8)}.part")
    part.parent.mkdir(exist_ok=True)
    digest, received = hashlib.sha256(), 0
    with part.open("wb") as file:
        async for chunk in request.stream():
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    if (digest.hexdigest(), received) != (sha256, size):
        part.unlink()
        raise HubError(400, f"Received {received} bytes of sha256 {digest.hexdigest()}, expected {size} of {sha256}")
    part.replace(Path(repo.object_path(sha256)))


@router.post("/{ns}/{name}.git/info/lfs/objects/batch")
@router.post("/{kind}/{ns}/{name}.git/info/lfs/objects/batch")
async def lfs_batch(request: Request):
    repo, body = open_repo(request, write=True), await request.json()
    verify = {"href": f"{endpoint(request)}/{repo.web_path}.git/info/lfs/objects/verify"}
    objects = []
    for asked in body["objects"]:
        sha256, size = asked["oid"], asked["size"]
        row = {"oid": sha256, "size": size}
        if not repo.has_object(sha256, size):
            upload = {"href": signed_url(request, "PUT", repo, sha256, size), "header": {}}
            row["actions"] = {"upload": upload, "verify": verify}
        objects.append(row)
    return {"transfer": "basic", "objects": objects}


@router.post("/{ns}/{name}.git/info/lfs/objects/verify")
@router.post("/{kind}/{ns}/{name}.git/info/lfs/objects/verify")
async def lfs_verify(request: Request):
    repo, body = open_repo(request, write=True), await request.json()
    if not repo.has_object(body["oid"], body["size"]):
        raise HubError(404, "LFS object not found or of another size")
    return {}


@router.api_route("/{ns}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
@router.api_route("/{kind}/{ns}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
async def resolve(request: Request):
    """A small file itself, or for an LFS file the way to it; both say commit, ETag and size."""
    repo = open_repo(request, files=True)
    commit, path = repo.resolve(param(request, "rev")), param(request, "path")
    headers = {"X-Repo-Commit": commit.oid}
    entry = commit.files.get(path)
    if entry is None:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    etag = f'"{entry.etag}"'
    if entry.lfs:
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": etag}
        return RedirectResponse(signed_url(request, "GET", repo, entry.sha256, entry.size), 302, headers)
    headers |= {"ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return FileResponse(repo.object_path(entry.sha256), headers=headers, filename=PurePosixPath(path).name)


@router.get("/api/spaces/{ns}/{name}/runtime")
async def space_runtime(request: Request):
    return runtime(open_repo(request, kind="spaces").meta)


@router.post("/api/spaces/{ns}/{name}/{action:str}")
@router.delete("/api/spaces/{ns}/{name}/{action:str}")
async def change_space(request: Request):
    """Variables and secrets (write-only), hardware, and the buttons that only answer with the runtime."""
    repo, action = open_repo(request, write=True, kind="spaces"), param(request, "action")
    if action in ("restart", "pause"):
        return runtime(repo.meta)
    body = await request.json()
    if action == "hardware":
        repo.update(hardware=body["flavor"])
        return runtime(repo.meta)
    if action not in ("variables", "secrets"):
        raise HubError(404, f"The local Hub has no such endpoint: {action}")
    kept = {key: value for key, value in repo.meta[action].items() if key != body["key"]}
    repo.update(**{action: kept | ({body["key"]: body["value"]} if request.method == "POST" else {})})
    return {key: {"key": key, "value": value} for key, value in repo.meta[action].items() if action == "variables"}


@router.get("/api/spaces/{ns}/{name}/variables")
@router.get("/api/spaces/{ns}/{name}/secrets")
async def space_settings(request: Request):
    repo, action = open_repo(request, write=True, kind="spaces"), request.url.path.rsplit("/", 1)[1]
    rows = {key: {"key": key, "value": value} for key, value in repo.meta[action].items()}
    return rows if action == "variables" else {key: {"key": key} for key in rows}
