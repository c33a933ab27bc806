"""The local Hub, seen by the real clients: what works, what is refused, and how each failure surfaces."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.commands import ROOT, end

REPO = "tester/model"
WEIGHTS = bytes(range(256)) * 40
CARD = (
    "---\nlicense: mit\nlibrary_name: fastgan\npipeline_tag: unconditional-image-generation\ntags: [gan]\n---\n# Hi\n"
)


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "training").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"resolution": 64}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "training" / "a log.jsonl").write_text("{}\n")
    return folder


@pytest.fixture
def pushed(api, folder):
    """The commit that put `folder` into REPO."""
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=folder)


def status_of(error) -> int:
    return error.value.response.status_code


def test_a_token_tells_who_it_belongs_to(hub, api):
    assert api.whoami()["name"] == hub.user
    assert api.whoami(token=hub.read_token)["auth"]["accessToken"]["role"] == "read"


def test_a_bad_token_is_refused(hub, api):
    with pytest.raises(HfHubHTTPError, match="Invalid user token") as error:
        api.whoami(token="hf_wrong")
    assert status_of(error) == 401


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repository_is_created_once_and_deleted(hub, api, kind):
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    url = api.create_repo("made", repo_type=kind, private=True, **sdk)
    assert (url.repo_id, url.repo_type) == ("tester/made", kind)
    with pytest.raises(HfHubHTTPError, match="already created") as error:
        api.create_repo("made", repo_type=kind, **sdk)
    assert status_of(error) == 409
    assert api.create_repo("made", repo_type=kind, exist_ok=True, **sdk) == url
    assert api.repo_info("tester/made", repo_type=kind).private
    assert ".gitattributes" in api.list_repo_files("tester/made", repo_type=kind)
    api.delete_repo("tester/made", repo_type=kind)
    assert not api.repo_exists("tester/made", repo_type=kind)


def test_a_folder_of_small_and_large_files_arrives_in_one_commit(hub, api, pushed, folder):
    assert [commit.title for commit in api.list_repo_commits(REPO)][1:] == ["initial commit"]
    files = hub.repo_files(REPO)
    assert {path for path in files if path != ".gitattributes"} == {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    }
    assert files["model.safetensors"] == WEIGHTS
    assert [upload.received for upload in hub.seen("PUT /cdn")] == [len(WEIGHTS)]
    assert all("authorization" not in request.headers for request in hub.seen("/cdn"))
    api.upload_folder(repo_id=REPO, folder_path=folder)
    assert len(hub.seen("PUT /cdn")) == 1 and len(hub.seen("POST .*/commit/")) == 1  # nothing changed, nothing sent


def test_a_file_list_goes_over_several_pages_and_into_folders(hub, api, pushed):
    hub.app.state.page_size = 2
    found = {item.path: item for item in api.list_repo_tree(REPO, recursive=True, expand=True)}
    assert set(found) == set(hub.repo_files(REPO)) | {"training"}
    assert len(hub.seen("GET .*/tree/")) == 3
    assert found["model.safetensors"].lfs.size == found["model.safetensors"].size == len(WEIGHTS)
    assert found["training"].last_commit.oid == pushed.oid
    assert [item.path for item in api.list_repo_tree(REPO, "training")] == ["training/a log.jsonl"]
    assert [item.path for item in api.get_paths_info(REPO, ["config.json", "absent"])] == ["config.json"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "absent"))


def test_a_download_is_bit_equal_and_comes_from_the_cache_the_second_time(hub, api, pushed, folder, tmp_path):
    for name in ("model.safetensors", "config.json"):
        for _ in range(2):
            path = Path(api.hf_hub_download(REPO, name, cache_dir=tmp_path / "cache"))
            assert path.read_bytes() == (folder / name).read_bytes()
    assert len(hub.seen("HEAD .*/resolve/")) == 4
    assert [request.sent for request in hub.seen("GET .*/(cdn|resolve)/")] == [len(WEIGHTS), 18]


def test_old_commits_tags_and_branches_can_be_downloaded(api, pushed, folder, tmp_path):
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="work/in progress")
    (folder / "config.json").write_text("{}")
    operations = [
        CommitOperationAdd("config.json", folder / "config.json"),
        CommitOperationDelete("model.safetensors"),
        CommitOperationDelete("training/"),
    ]
    made = api.create_commit(REPO, operations, commit_message="Less", parent_commit=pushed.oid)
    for revision in (pushed.oid, "v1", "work/in progress"):
        old = Path(api.snapshot_download(REPO, revision=revision, cache_dir=tmp_path / "cache"))
        assert (old / "config.json").read_text() == '{"resolution": 64}' and (old / "training").is_dir()
    assert sorted(api.list_repo_files(REPO)) == [".gitattributes", "README.md", "config.json"]
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        late = CommitOperationAdd("config.json", b"[]")
        api.create_commit(REPO, [late], commit_message="Late", parent_commit=pushed.oid)
    assert status_of(error) == 412
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches}["main"] == made.oid
    assert [ref.target_commit for ref in refs.tags] == [pushed.oid]
    api.delete_branch(REPO, branch="work/in progress")
    api.delete_tag(REPO, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="v1")


def test_the_card_is_read_and_a_wrong_one_refused(api, pushed, tmp_path):
    info = api.model_info(REPO, files_metadata=True)
    assert (info.sha, info.library_name, info.card_data.license) == (pushed.oid, "fastgan", "mit")
    assert {"gan", "license:mit"} <= set(info.tags)
    assert {file.rfilename: file.size for file in info.siblings}["model.safetensors"] == len(WEIGHTS)
    assert [found.id for found in api.list_models(author="tester", filter="gan")] == [REPO]
    for wrong in ("---\nmodel-index: [{name: n, results: [{task: {}}]}]\n---\n", "---\ntags: {\n---\n"):
        with pytest.raises(ValueError, match="Invalid metadata in README.md"):
            api.upload_file(path_or_fileobj=wrong.encode(), path_in_repo="README.md", repo_id=REPO)


def test_a_read_token_and_another_user_cannot_write(api, hub, pushed, folder):
    for token in (hub.read_token, "hf_write_other"):
        with pytest.raises(HfHubHTTPError) as error:
            api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO, token=token)
        assert status_of(error) == 403
        with pytest.raises(HfHubHTTPError):
            api.create_repo("tester/second", token=token)
    assert hub.repo_files(REPO)["config.json"] == b'{"resolution": 64}'


def test_a_private_repository_is_hidden_from_others_and_a_gated_one_names_itself(api, pushed, tmp_path):
    api.update_repo_settings(REPO, private=True)
    for token in (False, "hf_write_other"):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(REPO, token=token)
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(REPO, "config.json", token=token, cache_dir=tmp_path)
    assert api.model_info(REPO).private
    api.update_repo_settings(REPO, private=False, gated="auto")
    with pytest.raises(GatedRepoError):
        api.hf_hub_download(REPO, "config.json", token="hf_read_other", cache_dir=tmp_path)
    api.move_repo(REPO, "tester/renamed")
    assert not api.repo_exists(REPO) and api.file_exists("tester/renamed", "config.json")


def test_missing_things_are_told_apart(api, pushed, tmp_path):
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "absent.json", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, "config.json", revision="refs/convert/parquet", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("tester/absent", "config.json", cache_dir=tmp_path)


def test_an_upload_whose_bytes_do_not_match_their_sha256_is_refused(hub, api, pushed):
    operation = CommitOperationAdd("other.safetensors", WEIGHTS[1:])
    operation.upload_info.sha256 = bytes(32)
    with pytest.raises(RuntimeError, match="other.safetensors") as error:
        api.create_commit(REPO, [operation], commit_message="Wrong")
    assert error.value.__cause__.response.status_code == 400
    assert "other.safetensors" not in hub.repo_files(REPO)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413, 429, 500, 503])
def test_a_refused_commit_surfaces_with_its_status_and_the_next_one_succeeds(hub, api, pushed, status):
    hub.fail("POST .*/commit/main", status, retry_after=7 if status == 429 else None)
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=b"1", path_in_repo="n", repo_id=REPO)
    assert status_of(error) == status and error.value.response.headers["x-request-id"]
    assert error.value.response.headers.get("retry-after") == ("7" if status == 429 else None)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="n", repo_id=REPO)
    assert hub.repo_files(REPO)["n"] == b"1"


def test_the_client_itself_retries_a_busy_hub(hub, api, pushed):
    hub.fail("POST .*/preupload/", 429, retry_after=0)
    hub.fail("PUT /cdn", 503)
    api.upload_file(path_or_fileobj=WEIGHTS[1:], path_in_repo="x.safetensors", repo_id=REPO)
    assert [request.status for request in hub.seen("POST .*/preupload/")][-2:] == [429, 200]
    assert [request.status for request in hub.seen("PUT /cdn")][-2:] == [503, 200]


def test_an_interrupted_download_goes_on_where_it_stopped(hub, api, pushed, tmp_path):
    large, chunk = bytes(range(251)) * 45_000, constants.DOWNLOAD_CHUNK_SIZE
    api.upload_file(path_or_fileobj=large, path_in_repo="large.bin", repo_id=REPO)
    hub.cut("GET /cdn", after=chunk + 1000)  # the client keeps whole chunks only
    path = api.hf_hub_download(REPO, "large.bin", cache_dir=tmp_path)
    assert Path(path).read_bytes() == large
    first, second = hub.seen("GET /cdn")
    assert (first.sent, second.headers["range"]) == (chunk + 1000, f"bytes={chunk}-")
    assert (second.status, second.sent) == (206, len(large) - chunk)


def test_a_commit_whose_answer_is_lost_was_made_all_the_same(hub, api, pushed):
    hub.cut("POST .*/commit/", after=10)
    with pytest.raises(httpx2.RemoteProtocolError):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="n", repo_id=REPO)
    assert hub.repo_files(REPO)["n"] == b"1"


def test_a_slow_answer_runs_into_the_clients_time_limit(hub, api, pushed, tmp_path):
    hub.slow("/config.json|/api/models", seconds=3, times=2)
    with pytest.raises(httpx2.TimeoutException):
        api.model_info(REPO, timeout=0.1)
    assert api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path, etag_timeout=0.1)
    assert len(hub.seen("HEAD .*/config.json")) == 2  # without a cached file, a slow Hub gets a second chance


def test_a_hub_that_stays_down_is_an_error_unless_the_file_is_cached(hub, api, pushed, tmp_path):
    path = api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path)
    hub.fail("HEAD", 404, times=None, code="RepoNotFound")
    assert api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path) == path
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download(REPO, "README.md", cache_dir=tmp_path)
    hub.heal()
    assert api.hf_hub_download(REPO, "README.md", cache_dir=tmp_path)


def test_corrupt_bytes_pass_the_download_and_fail_the_checksums(hub, api, pushed, tmp_path):
    hub.corrupt("GET /cdn")
    path = api.hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"\xff" + WEIGHTS[1:]
    found = api.verify_repo_checksums(REPO, cache_dir=tmp_path)
    assert [mismatch["path"] for mismatch in found.mismatches] == ["model.safetensors"]


def test_a_huge_file_is_announced_before_a_byte_of_it_is_sent(hub, api, pushed, tmp_path):
    hub.announce(REPO, "model.safetensors", 100 * 10**9)
    assert api.get_paths_info(REPO, "model.safetensors")[0].size == 100 * 10**9
    assert api.get_hf_file_metadata(url=f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors").size == 100 * 10**9
    with pytest.raises(ValueError, match="too large"):
        api.hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path)
    assert hub.seen("GET /cdn") == []


def test_a_space_keeps_its_settings(api):
    api.create_repo("demo", repo_type="space", space_sdk="gradio", space_variables=[{"key": "A", "value": "1"}])
    api.add_space_variable("tester/demo", "B", "2")
    api.add_space_secret("tester/demo", "TOKEN", "hidden")
    assert {key: v.value for key, v in api.get_space_variables("tester/demo").items()} == {"A": "1", "B": "2"}
    assert list(api.get_space_secrets("tester/demo")) == ["TOKEN"]
    api.request_space_hardware("tester/demo", "t4-small")
    runtime = api.get_space_runtime("tester/demo")
    assert (runtime.stage, runtime.hardware) == ("RUNNING", "t4-small")
    assert api.space_info("tester/demo").sdk == "gradio"


DATASETS = """
    import json, sys
    from pathlib import Path
    from datasets import Dataset, load_dataset
    from huggingface_hub import HfApi
    from PIL import Image

    folder = Path(sys.argv[1])
    for shade in (10, 200):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / f"{shade}.png")
    Dataset.from_dict({"n": [1, 2, 3]}).push_to_hub("tester/table", private=True)
    load_dataset("imagefolder", data_dir=str(folder), split="train").push_to_hub("tester/pictures")
    HfApi().create_repo("tester/raw", repo_type="dataset")
    HfApi().upload_folder(repo_id="tester/raw", repo_type="dataset", folder_path=folder)
    shades = lambda rows: sorted(row["image"].getpixel((0, 0))[0] for row in rows)
    print(json.dumps({
        "table": load_dataset("tester/table", split="train")["n"][:],
        "streamed table": [row["n"] for row in load_dataset("tester/table", split="train", streaming=True)],
        "pictures": shades(load_dataset("tester/pictures", split="train")),
        "streamed pictures": shades(load_dataset("tester/pictures", split="train", streaming=True)),
        "raw": shades(load_dataset("tester/raw", split="train")),
        "streamed raw": shades(load_dataset("tester/raw", split="train", streaming=True)),
    }))
"""


def test_datasets_pushes_loads_and_streams_tables_and_pictures(hub, tmp_path):
    (tmp_path / "pictures").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(DATASETS), tmp_path / "pictures"]
    run = subprocess.run(command, env=hub.env(tmp_path / "home"), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    shades, numbers = [10, 200], [1, 2, 3]
    assert json.loads(run.stdout.splitlines()[-1]) == {
        **{"table": numbers, "streamed table": numbers, "pictures": shades, "streamed pictures": shades},
        **{"raw": shades, "streamed raw": shades},
    }
    assert hub.repo("tester/table", "datasets").meta["private"]
    assert "data/train-00000-of-00001.parquet" in hub.repo_files("tester/pictures", "datasets")


def test_it_starts_by_hand_and_prints_the_lines_to_copy(tmp_path):
    command = [sys.executable, "-u", "-m", "tests.hub_server", "--port", "0", "--root", tmp_path]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        lines = []
        while not lines or "Ctrl+C" not in lines[-1]:
            lines.append(server.stdout.readline())
            assert lines[-1], "the server ended early"
        settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines if "export" in line)
        api = "from huggingface_hub import HfApi; print(HfApi().create_repo('mine').repo_id)"
        client = [sys.executable, "-c", api]
        made = subprocess.run(client, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    finally:
        end(server)
        server.stdout.close()
    assert made.stdout.strip() == "tester/mine" and (tmp_path / "models/tester/mine/repo.json").is_file()
