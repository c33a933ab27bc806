import json
import shutil
import subprocess
import sys
import zipfile

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from fastgan.errors import UserError
from fastgan.streaming import stream_batches
from tests.commands import PATIENCE
from tests.hub_server.server import HubServer
from tests.pictures import RED, close, encoded


def test_a_folder_is_read_with_all_below_it_and_any_ending(folder, load):
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_bytes(b"?")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "g.png").write_bytes(b"?")
    pictures = load(folder)
    assert pictures.images.shape == (6, 3, 32, 32) and pictures.images.dtype == torch.uint8
    assert close(pictures.images[:, 0, 16, 16], [0, 20, 40, 60, 80, 100])
    assert pictures.skipped == []
    assert pictures.source == {"dataset": "pictures", "kind": "folder", "split": "train", "pictures": 6}


def test_a_folder_with_split_folders_gives_the_split_that_was_asked_for(tmp_path, load):
    for name, count in {"train": 3, "test": 2}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / "set" / name / f"{n}.png")
    assert len(load(tmp_path / "set").images) == 3
    assert len(load(tmp_path / "set", split="test").images) == 2
    with pytest.raises(UserError, match="--split dev: no such split; there is test, train"):
        load(tmp_path / "set", split="dev")


def test_a_zip_gives_the_pictures_of_its_folder_and_writes_none(folder, tmp_path, load):
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, path.relative_to(folder))
        file.writestr("../../outside.png", encoded(Image.new("RGB", (32, 32), RED)))
        file.writestr("__MACOSX/._a.png", b"?")
    before = set(tmp_path.rglob("*.png"))
    pictures = load(archive)
    assert len(pictures.images) == 6  # "../.." is hidden like any name that starts with a dot
    assert torch.equal(pictures.images, load(folder).images)
    assert pictures.fingerprint == load(folder).fingerprint
    assert set(tmp_path.rglob("*.png")) == before


def test_parquet_files_are_read_and_their_column_found(folder, tmp_path, load):
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.rglob("*.*"))]
    columns = {"label": list(range(6)), "photo": cells}
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()})
    (tmp_path / "tables").mkdir()
    file = tmp_path / "tables" / "part-0.parquet"
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(file))
    for source in (file, tmp_path / "tables", tmp_path / "tables" / "*.parquet"):
        pictures = load(source)
        assert torch.equal(pictures.images, load(folder).images)
        assert pictures.source["image_column"] == "photo" and pictures.source["kind"] == "parquet"
    with pytest.raises(UserError, match="--image-column image: no such column; there is label, photo"):
        load(file, image_column="image")
    with pytest.raises(UserError, match="--image-column label: holds no pictures"):
        load(file, image_column="label")
    with pytest.raises(UserError, match="--split test: no such split; there is train"):
        load(file, split="test")


def test_a_column_of_plain_bytes_is_found_when_it_holds_pictures(tmp_path, load):
    picture = encoded(Image.new("RGB", (32, 32), RED))
    table = datasets.Dataset.from_dict({"key": [b"1", b"2"], "jpg": [picture, picture]})
    table.to_parquet(str(tmp_path / "plain.parquet"))
    assert load(tmp_path / "plain.parquet").source["image_column"] == "jpg"
    table.remove_columns("jpg").to_parquet(str(tmp_path / "none.parquet"))
    with pytest.raises(UserError, match="no column with pictures; its columns are key"):
        load(tmp_path / "none.parquet")


def test_several_columns_with_pictures_are_named(tmp_path, load):
    picture = {"bytes": encoded(Image.new("RGB", (32, 32))), "path": None}
    features = datasets.Features({"front": datasets.Image(), "back": datasets.Image()})
    table = datasets.Dataset.from_dict({"front": [picture], "back": [picture]}, features=features)
    table.to_parquet(str(tmp_path / "two.parquet"))
    with pytest.raises(UserError, match="pictures in columns front, back; choose one, like --image-column front"):
        load(tmp_path / "two.parquet")
    assert len(load(tmp_path / "two.parquet", image_column="back").images) == 1


def test_a_saved_dataset_is_recognised(folder, tmp_path, load):
    files = [str(path) for path in sorted(folder.rglob("*.*"))]
    saved = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": saved, "test": saved.select([2])}).save_to_disk(tmp_path / "both")
    assert torch.equal(load(tmp_path / "saved").images, load(folder).images)
    assert torch.equal(load(tmp_path / "both", split="test").images, load(folder).images[2:3])
    with pytest.raises(UserError, match="there is train, test"):
        load(tmp_path / "both", split="dev")


def test_broken_and_tiny_pictures_are_listed_and_the_rest_used(folder, load, monkeypatch):
    whole = (folder / "a.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (folder / "g.png").write_bytes(whole[:20])
    (folder / "h.jpg").write_bytes(encoded(Image.fromarray(noise), "JPEG")[:-900])
    (folder / "i.png").write_bytes(b"")
    (folder / "j.heic").write_bytes(b"\0" * 99)
    Image.new("RGB", (100, 15)).save(folder / "k.png")
    Image.new("RGB", (300, 300)).save(folder / "l.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    pictures = load(folder)
    assert torch.equal(pictures.images[:, 0, 0, 0], torch.tensor([0, 20, 40, 60, 80, 100]).byte())
    reasons = dict(pictures.skipped)
    assert sorted(reasons) == ["g.png", "h.jpg", "i.png", "j.heic", "k.png", "l.png"]
    assert "damaged" in reasons["g.png"] and "truncated" in reasons["h.jpg"] and "not a picture" in reasons["i.png"]
    assert "JPEG" in reasons["j.heic"] and "100x15" in reasons["k.png"] and "million" in reasons["l.png"]


def test_a_broken_cell_and_a_broken_zip_entry_are_listed(folder, tmp_path, load):
    good = (folder / "a.png").read_bytes()
    features = datasets.Features({"image": datasets.Image()})
    cells = [{"bytes": good, "path": None}, {"bytes": good[:30], "path": "x.png"}, None, {"bytes": good, "path": None}]
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(tmp_path / "t.parquet"))
    pictures = load(tmp_path / "t.parquet")
    assert len(pictures.images) == 2 and [name for name, _ in pictures.skipped] == ["x.png", "row 2"]
    names = pyarrow.table({"image": [{"bytes": good, "path": None}, {"bytes": None, "path": "elsewhere.png"}]})
    pyarrow.parquet.write_table(names, tmp_path / "names.parquet")
    assert load(tmp_path / "names.parquet").skipped == [("elsewhere.png", "its file is not here")]
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as file:
        file.writestr("good.png", good)
        file.writestr("bad.png", good)
        spot = file.getinfo("bad.png").header_offset + 60
    with open(tmp_path / "t.zip", "r+b") as file:
        file.seek(spot)
        file.write(b"spoilt")
    pictures = load(tmp_path / "t.zip")
    assert len(pictures.images) == 1 and pictures.skipped[0][0] == "bad.png"


def test_what_can_not_be_used_is_said_in_one_line(folder, tmp_path, load):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK, it says")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1, it says")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"?")
    for source, message in {
        "empty": "no pictures in it",
        "bad.zip": "not a .zip, or a damaged one",
        "bad.parquet": "bad.parquet: can't be read",
        "notes.txt": "expected a folder, a .zip or .parquet files",
        "broken": "none of 1 pictures can be used; the first is a.png: not a picture",
        "nowhere": "no such file or folder",
        "nowhere/*.parquet": "no such files",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load(tmp_path / source)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no colour"):
        load(folder, background="whitish")
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(str(folder / "table.parquet"))
    with pytest.raises(UserError, match="holds both pictures"):
        load(folder)


def test_a_hub_that_can_not_be_reached_is_said(load, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="someone/pictures: the Hub can't be reached"):
        load("someone/pictures")
    with pytest.raises(UserError, match="someone/pictures: the Hub can't be reached"):
        stream_batches("someone/pictures", size=(32, 32), batch_size=2, seed=0)


def test_what_runs_left_among_the_pictures_is_not_read(folder, load):
    before = load(folder)
    grid = folder / "runs" / "faces" / "samples" / "0000000008.png"
    grid.parent.mkdir(parents=True)
    shutil.copy(next(folder.rglob("*.png")), grid)
    (folder / "runs" / "faces" / "train_config.json").write_text("{}")
    assert load(folder).fingerprint == before.fingerprint


def test_only_the_hub_has_revisions(folder, load):
    with pytest.raises(UserError, match="^dataset revision v1: .* is on this disk; only datasets on the Hub have any"):
        load(folder, revision="v1")


HUB_SCRIPT = """
import itertools, json, sys
from fastgan.data import load_pictures
from fastgan.errors import UserError
from fastgan.streaming import stream_batches

for line in sys.stdin:
    settings = json.loads(line)
    stream = settings.pop("stream", False)
    try:
        if stream:
            pictures = stream_batches(**settings, size=(32, 32), batch_size=2, seed=0, workers=0)
            count = len(list(itertools.islice(pictures, 9)))
        else:
            pictures = load_pictures(**settings, size=(32, 32), progress=False)
            count = len(pictures.images)
        print(json.dumps({"count": count, "source": pictures.source, "skipped": dict(pictures.skipped)}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""


def on_hub(environment, *calls):
    """What load_pictures or stream_batches answer to each call, in a process that knows the local Hub."""
    script = [sys.executable, "-c", HUB_SCRIPT]
    lines = "".join(json.dumps(call) + "\n" for call in calls)
    run = subprocess.run(script, input=lines, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_hub_dataset_is_read_pinned_cached_and_refused_in_plain_words(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"?")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "more" / "d.Jpeg").rename(folder / "more" / "d.jpeg")  # `datasets` knows endings in one case only
    good, private = (folder / "a.png").read_bytes(), tmp_path / "private.png"
    Image.new("RGB", (40, 40)).save(private)
    cells = [{"bytes": good, "path": None}, {"bytes": None, "path": str(private)}]
    features = datasets.Features({"photo": datasets.Image()})
    datasets.Dataset.from_dict({"photo": cells}, features=features).to_parquet(str(tmp_path / "train.parquet"))
    with HubServer(tmp_path / "hub") as hub:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token)
        for name in ("files", "table", "secret", "gated"):
            api.create_repo(f"tester/{name}", repo_type="dataset", private=name == "secret")
        api.upload_folder(repo_id="tester/files", repo_type="dataset", folder_path=folder)
        for name in ("table", "secret", "gated"):
            api.upload_file(
                repo_id=f"tester/{name}",
                repo_type="dataset",
                path_or_fileobj=tmp_path / "train.parquet",
                path_in_repo="train.parquet",
            )
        api.update_repo_settings("tester/gated", repo_type="dataset", gated="auto")
        signed_in, stranger = hub.env(tmp_path / "home"), hub.env(tmp_path / "strange", "")
        files, table, stream, split, config, revision, missing = on_hub(
            signed_in,
            {"source": "tester/files"},
            {"source": "tester/table"},
            {"source": "tester/files", "stream": True},
            {"source": "tester/table", "split": "dev"},
            {"source": "tester/table", "config_name": "big"},
            {"source": "tester/table", "revision": "v2"},
            {"source": "tester/nothing"},
        )
        secret, gated = on_hub(stranger, {"source": "tester/secret"}, {"source": "tester/gated"})
        sha = api.dataset_info("tester/files").sha
    offline, other = on_hub(signed_in, {"source": "tester/files"}, {"source": "tester/files", "stream": True})

    broken = {"broken.png": "not a picture, or damaged at its start"}
    facts = {"dataset": "tester/files", "kind": "hub", "config": None, "split": "train", "image_column": "image"}
    facts |= {"revision": sha, "license": "mit"}
    assert files == offline == {"count": 6, "source": facts | {"pictures": 6}, "skipped": broken}
    assert stream == {"count": 9, "source": facts, "skipped": broken}
    assert table["count"] == 1 and table["skipped"] == {"private.png": "names a file outside the dataset"}
    for answer, message in (
        (split, "--split dev: no such split; there is train"),
        (config, "--dataset-config: BuilderConfig 'big' not found"),
        (revision, "dataset revision v2: tester/table has no such branch"),
        (missing, "no such dataset on the Hub, or it is private"),
        (secret, "no such dataset on the Hub, or it is private"),
        (gated, "--dataset tester/gated: gated; ask for access"),
        (other, "the Hub can't be reached"),
    ):
        assert message in answer["error"] and "\n" not in answer["error"]


def test_a_stream_that_is_cut_off_goes_on(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("tester/files", repo_type="dataset")
        api.upload_folder(repo_id="tester/files", repo_type="dataset", folder_path=folder)
        signed_in = hub.env(tmp_path / "home")
        hub.cut("GET /cdn/datasets/tester/files", after=20, times=3)
        [mended] = on_hub(signed_in, {"source": "tester/files", "stream": True})
    assert mended["count"] == 9 and not mended["skipped"]


def test_a_repository_with_a_script_and_a_token_of_nobody_are_told_in_plain_words(folder, tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        api = huggingface_hub.HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("tester/script", repo_type="dataset")
        api.upload_file(
            repo_id="tester/script", repo_type="dataset", path_or_fileobj=b"import os", path_in_repo="script.py"
        )
        [script] = on_hub(hub.env(tmp_path / "home"), {"source": "tester/script"})
        [nobody] = on_hub(hub.env(tmp_path / "other", "hf_revoked"), {"source": "tester/script"})
    assert script["error"].startswith(
        "--dataset tester/script: can't be read (Dataset scripts are no longer supported"
    )
    not_taken = "the Hub does not take the token that is set here: run `hf auth login`, or leave HF_TOKEN out"
    assert nobody["error"] == f"--dataset tester/script: {not_taken}"


def test_settings_of_tables_are_refused_where_there_are_none(folder, load):
    with pytest.raises(UserError, match="--image-column face: .* holds picture files"):
        load(folder, image_column="face")
    with pytest.raises(UserError, match="--dataset-config small: .* has no configurations"):
        load(folder, config_name="small")


def test_links_are_followed_once_and_one_to_nowhere_is_listed(folder, tmp_path, load):
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "elsewhere" / "far.png")
    (tmp_path / "elsewhere" / "round").symlink_to(folder)
    whole = len(load(folder).images)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    pictures = load(folder)
    assert len(pictures.images) == whole == 7
    assert pictures.skipped == [("gone.png", "its file is not here")]
