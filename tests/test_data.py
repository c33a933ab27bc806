import errno
import io
import itertools
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageCms

from fastgan import data
from fastgan.data import batches, load_pictures, prepare, stream_batches
from fastgan.errors import UserError
from tests.hub_server.server import HubServer

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path, monkeypatch):
    """Keeps what `datasets` makes of a parquet file out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    # It rests this long whenever a parquet file has been streamed, and ours hold seven pictures.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def load(tmp_path):
    """load_pictures at 32 pixels, with a cache of its own and no bar."""

    def call(source, **settings):
        settings = {"size": (32, 32), "cache_dir": tmp_path / "cache", "progress": False} | settings
        return load_pictures(str(source), **settings)

    return call


@pytest.fixture
def folder(tmp_path):
    """Six pictures of different grey, 20 apart, in a folder and one below it."""
    path = tmp_path / "pictures"
    (path / "more").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.JPG", "c.webp", "more/d.Jpeg", "more/e.bmp", "more/f.PNG"]):
        Image.new("RGB", (40, 40), (20 * n,) * 3).save(path / name)
    return path


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reopened(image, kind="PNG", **options):
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def halves(left, right, size=(64, 64), mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def close(pixel, expected, by=4):
    return np.abs(np.asarray(pixel, int) - np.asarray(expected, int)).max() <= by


# --------------------------------------------------------------------------------------------------------- one picture


def test_a_picture_taken_sideways_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated a quarter: what is stored left is shown on top
    pixels = prepare(reopened(halves(RED, BLUE), "JPEG", exif=exif, quality=95), (32, 32))
    assert close(pixels[4, 16], RED, 8) and close(pixels[28, 16], BLUE, 8)


def test_damaged_exif_does_not_lose_the_picture():
    picture = reopened(Image.new("RGB", (64, 64), RED), "JPEG", exif=b"Exif\0\0garbage", quality=95)
    assert close(prepare(picture, (32, 32))[0, 0], RED, 8)


def test_palettes_give_their_colors_and_their_transparency():
    plain = halves(RED, BLUE).convert("P")
    assert close(prepare(reopened(plain), (32, 32))[16, [4, 28]], (RED, BLUE))
    clear = Image.new("P", (64, 64), 0)
    clear.putpalette([*RED, *BLUE])
    clear.paste(1, (32, 0, 64, 64))
    picture = reopened(clear, transparency=1)
    assert close(prepare(picture, (32, 32), background="lime")[16, [4, 28]], (RED, GREEN))
    assert prepare(picture, (32, 32), channels=4)[16, [4, 28], 3].tolist() == [255, 0]


def test_grey_with_alpha_is_composed_on_the_background():
    picture = reopened(halves((0, 255), (0, 0), mode="LA"))
    assert close(prepare(picture, (32, 32), background="#00ff00")[16, [4, 28]], ((0, 0, 0), GREEN))
    assert close(prepare(picture, (32, 32), channels=1)[16, [4, 28]], ([0], [255]))


def test_deep_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    expected = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    for image in (
        reopened(Image.fromarray(ramp.astype(np.uint16))),
        reopened(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        reopened(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        reopened(Image.fromarray((ramp * 100 - 1e6).astype(np.float32)), "TIFF"),
    ):
        assert image.mode[0] in "IF"
        assert np.abs(prepare(image, (64, 64), channels=1)[..., 0] - expected).max() <= 1


def test_print_colors_become_screen_colors():
    picture = reopened(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95)
    assert picture.mode == "CMYK"
    assert close(prepare(picture, (32, 32))[16, 16], RED, 8)


def test_an_embedded_color_profile_is_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile whose first channel means blue and whose last means red, under another name.
    profile = profile.replace(b"rXYZ", b"tmpX", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmpX", b"bXYZ", 1)
    swapped = profile.replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))
    assert close(prepare(reopened(Image.new("RGB", (64, 64), RED), icc_profile=swapped), (32, 32))[0, 0], BLUE)
    damaged = reopened(Image.new("RGB", (64, 64), RED), icc_profile=b"damaged")
    assert close(prepare(damaged, (32, 32))[0, 0], RED)


def test_alpha_is_kept_with_four_channels_and_opaque_pictures_get_it():
    pixels = prepare(halves((*RED, 255), (*GREEN, 0), mode="RGBA"), (32, 32), channels=4)
    assert pixels[16, 4].tolist() == [*RED, 255]
    assert pixels[16, 28].tolist() == [255, 255, 255, 0]  # nothing to see: the background's colour
    assert prepare(Image.new("L", (64, 64), 7), (32, 32), channels=4)[0, 0].tolist() == [7, 7, 7, 255]


def test_hidden_color_does_not_bleed_into_an_edge():
    edge = halves((*RED, 255), (0, 0, 0, 0), (66, 66), "RGBA")  # the edge falls inside a pixel of the result
    pixels = prepare(edge, (8, 8), channels=4, background="red")
    assert ((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any()
    assert close(pixels[..., :3], np.broadcast_to(RED, (8, 8, 3)), 2)


def test_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (64, 64), color) for color in (RED, BLUE)]
    picture = reopened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert picture.n_frames == 2
    assert close(prepare(picture, (32, 32))[0, 0], RED)


def test_crop_shows_the_middle_pad_shows_everything_stretch_fills():
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(BLUE, (32, 0, 64, 32))
    assert close(prepare(wide, (32, 32))[16, [1, 16, 30]], (BLUE, BLUE, BLUE), 30)
    padded = prepare(wide, (48, 48), fit="pad", background="lime")
    assert close(padded[[2, 24, 45], 4], (GREEN, RED, GREEN)) and close(padded[24, 24], BLUE)
    assert close(prepare(wide, (48, 48), fit="stretch")[[2, 45], 4], (RED, RED))
    assert prepare(wide, (48, 48), channels=4, fit="pad")[[2, 24], 24, 3].tolist() == [0, 255]
    assert prepare(wide, (48, 48), channels=1, fit="pad")[2, 24].tolist() == [255]


def test_size_is_height_then_width():
    assert prepare(Image.new("RGB", (50, 70)), (64, 32)).shape == (64, 32, 3)


def test_fine_stripes_become_even_grey_and_not_moire():
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::2] = 255
    pixels = prepare(Image.fromarray(stripes), (16, 16), channels=1)
    assert np.abs(pixels[:, 2:-2].astype(int) - 127).max() <= 3


def test_an_unknown_background_is_named():
    with pytest.raises(UserError, match='no colour "whitish"'):
        prepare(Image.new("RGB", (64, 64)), (32, 32), background="whitish")


# ------------------------------------------------------------------------------------------------------ where they are


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


HUB_SCRIPT = """
import itertools, json, sys
from fastgan.data import load_pictures, stream_batches
from fastgan.errors import UserError

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
    run = subprocess.run(script, input=lines, env=environment, capture_output=True, text=True, timeout=120)
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
        (revision, "--revision v2: tester/table has no such branch"),
        (missing, "no such dataset on the Hub, or it is private"),
        (secret, "no such dataset on the Hub, or it is private"),
        (gated, "--dataset tester/gated: gated; ask for access"),
        (other, "the Hub can't be reached"),
    ):
        assert message in answer["error"] and "\n" not in answer["error"]


# ----------------------------------------------------------------------------------------------------------- the cache


def spoil(path):
    """Change a file's content but neither its size nor its time."""
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_start_decodes_nothing(folder, load):
    first = load(folder)
    for path in folder.rglob("*.*"):
        spoil(path)
    second = load(folder)
    assert torch.equal(first.images, second.images)
    assert (first.fingerprint, first.source, first.skipped) == (second.fingerprint, second.source, second.skipped)
    with pytest.raises(UserError, match="none of 6 pictures"):
        load(folder, size=(64, 64))  # other settings do decode


def test_a_changed_folder_is_prepared_again_and_the_old_entry_removed(folder, load, tmp_path):
    first = load(folder)
    Image.new("RGB", (40, 40), RED).save(folder / "z.png")
    second = load(folder)
    assert len(second.images) == 7 and second.fingerprint != first.fingerprint
    assert len(list((tmp_path / "cache").glob("*-*"))) == 1


def test_a_damaged_cache_is_made_anew(folder, load, tmp_path):
    first = load(folder)
    (array,) = (tmp_path / "cache").glob("*/pictures.npy")
    for damage in (array.read_bytes()[:-1], b""):
        array.write_bytes(damage)
        assert torch.equal(load(folder).images, first.images)


def test_the_cache_keeps_no_local_path(folder, load, tmp_path):
    load(folder)
    (about,) = (tmp_path / "cache").glob("*/pictures.json")
    assert str(tmp_path) not in about.read_text() and json.loads(about.read_text())["source"]["pictures"] == 6


def test_large_sets_are_mapped_and_stay_as_they_are_on_disk(folder, load, monkeypatch):
    first = load(folder)
    monkeypatch.setattr("fastgan.data.MEMORY_BYTES", 1000)
    mapped = load(folder)
    assert torch.equal(mapped.images, first.images)
    mapped.images.zero_()
    assert torch.equal(load(folder).images, first.images)


def test_processes_that_start_together_agree(folder, tmp_path):
    settings = {"size": (32, 32), "cache_dir": tmp_path / "cache", "progress": False}
    with multiprocessing.get_context("fork").Pool(3) as pool:
        jobs = [pool.apply_async(load_pictures, (str(folder),), settings) for _ in range(6)]
        prints = {job.get(60).fingerprint for job in jobs}
    assert prints == {load_pictures(str(folder), **settings).fingerprint}
    assert len(list((tmp_path / "cache").glob("*-*"))) == 1


def test_too_little_room_is_said_before_any_work_and_leaves_nothing(folder, load, tmp_path):
    with pytest.raises(UserError, match="need .* GB"):
        load(folder, size=(2**22, 2**22))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(UserError, match=f"can't write there .{os.strerror(errno.EFBIG)}"):
            load(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_folder_that_can_not_be_written_is_said(folder, load):
    with pytest.raises(UserError, match="--cache-dir .*: can't write there"):
        load(folder, cache_dir=folder / "a.png")


# ------------------------------------------------------------------------------------------------------------- batches


def numbered(count):
    """Pictures that can be told apart, also mirrored: [N, 1, 2, 2], left column the number, right column 255."""
    images = torch.full((count, 1, 2, 2), 255, dtype=torch.uint8)
    images[..., 0] = torch.arange(count).reshape(-1, 1, 1)
    return images


def shown(batch):
    """Which pictures a batch of numbered ones holds."""
    return ((batch + 1) * 127.5).round().int().amin(dim=(1, 2, 3)).tolist()


def take(count, images, **settings):
    return torch.cat(list(itertools.islice(batches(images, **settings), count)))


def test_batches_are_float_from_minus_one_to_one():
    batch = next(batches(torch.tensor([0, 255]).byte().reshape(2, 1, 1, 1), batch_size=2, seed=0))
    assert batch.dtype == torch.float32 and sorted(batch.flatten().tolist()) == [-1, 1]


def test_every_picture_comes_once_in_every_pass_in_another_order():
    names = shown(take(14, numbered(7), batch_size=3, seed=1))
    passes = [names[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 4
    assert shown(take(14, numbered(7), batch_size=3, seed=2)) != names


def test_a_batch_larger_than_the_set_goes_round():
    names = shown(take(1, numbered(3), batch_size=8, seed=0))
    assert sorted(names[:3]) == sorted(names[3:6]) == [0, 1, 2] and len(names) == 8


def test_seeking_equals_walking():
    images = numbered(7)
    walked = take(40, images, batch_size=4, seed=3)
    for start in (0, 4, 28, 100):
        assert torch.equal(take(5, images, batch_size=4, seed=3, start_images=start), walked[start : start + 20])
    far = next(batches(images, batch_size=4, seed=3, start_images=10**15))
    assert far.shape == (4, 1, 2, 2)


def test_two_processes_together_see_what_one_would():
    images = numbered(11)
    alone = take(9, images, batch_size=6, seed=5, start_images=12)
    settings = {"batch_size": 6, "seed": 5, "start_images": 12, "world_size": 2}
    first, second = (take(9, images, rank=rank, **settings).split(3) for rank in (0, 1))
    together = torch.cat([part for pair in zip(first, second, strict=True) for part in pair])
    assert torch.equal(alone, together)
    with pytest.raises(UserError, match="shared equally by 4"):
        next(batches(images, batch_size=6, seed=0, world_size=4))


def test_half_of_the_pictures_are_mirrored_and_only_if_wanted():
    images = numbered(50)
    plain = take(20, images, batch_size=10, seed=0, flip=False)
    flipped = take(20, images, batch_size=10, seed=0)
    assert (plain[:, 0, 0, 1] == 1).all()
    mirrored = flipped[:, 0, 0, 1] != 1
    assert 70 < mirrored.sum() < 130
    assert torch.equal(torch.where(mirrored[:, None, None, None], flipped.flip(-1), flipped), plain)
    assert torch.equal(images, numbered(50))


# ----------------------------------------------------------------------------------------------------------- streaming


def greys(stream, count):
    """The grey level of each picture in the first batches."""
    return torch.cat([((batch[:, 0, 0, 0] + 1) * 127.5).round().int() for batch in itertools.islice(stream, count)])


def test_a_stream_gives_every_picture_and_skips_broken_ones(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"?")
    archive, table = tmp_path / "pictures.zip", tmp_path / "pictures.parquet"
    files = [path for path in sorted(folder.rglob("*.*"))]
    with zipfile.ZipFile(archive, "w") as file:
        for path in files:
            file.write(path, path.name)
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(table))
    datasets.Dataset.from_dict({"image": cells}, features=features).save_to_disk(tmp_path / "saved")
    for source, workers in ((folder, 2), (folder, 0), (archive, 2), (table, 2), (tmp_path / "saved", 0)):
        stream = stream_batches(str(source), size=(16, 32), batch_size=2, seed=0, workers=workers)
        assert next(stream).shape == (2, 3, 16, 32)
        assert {round(grey / 20) for grey in greys(stream, 20).tolist()} == {0, 1, 2, 3, 4, 5}
        assert stream.skipped == [("broken.png", "not a picture, or damaged at its start")]
        assert stream.source["dataset"] == Path(source).name


def test_ctrl_c_does_not_end_the_workers_of_a_stream(folder):
    """A terminal sends it to every process; training decides when to stop."""
    others = multiprocessing.active_children()
    stream = stream_batches(str(folder), size=(16, 32), batch_size=2, seed=0, workers=2)
    for _ in range(2):  # one from each, so both have begun
        next(stream)
    workers = [worker for worker in multiprocessing.active_children() if worker not in others]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(20):
        assert next(stream).shape == (2, 3, 16, 32)
    assert all(worker.is_alive() for worker in workers)


def test_what_runs_left_among_the_pictures_is_not_read(folder):
    before = load_pictures(str(folder), size=(16, 16), progress=False)
    grid = folder / "runs" / "faces" / "samples" / "0000000008.png"
    grid.parent.mkdir(parents=True)
    shutil.copy(next(folder.rglob("*.png")), grid)
    (folder / "runs" / "faces" / "train_config.json").write_text("{}")
    assert load_pictures(str(folder), size=(16, 16), progress=False).fingerprint == before.fingerprint


def test_only_the_hub_has_revisions(folder):
    with pytest.raises(UserError, match="--revision v1: .* is on this disk; only datasets on the Hub have any"):
        load_pictures(str(folder), size=(16, 16), revision="v1", progress=False)


def test_a_worker_that_is_ahead_leaves_the_others_their_pass(folder):
    found = data._find_source(str(folder), "train", None, None, None, None)
    one = data._WorkerBatches(found, {}, share=2, buffer=4, seed=[0, 0], place=[0, 1])
    names = [[row["name"] for row in one.rows(number)] for number in range(4)]
    assert len(set(map(tuple, names))) > 1 and len(set(map(frozenset, names))) == 1
    ahead = pickle.loads(pickle.dumps(one))  # as it comes to another process
    assert [row["name"] for row in ahead.rows(3)] == names[3]
    assert [row["name"] for row in one.rows(0)] == names[0]


def test_two_streaming_processes_share_the_pictures(folder):
    settings = {"size": (16, 16), "batch_size": 6, "seed": 0, "world_size": 2, "workers": 0}
    first, second = (set(greys(stream_batches(str(folder), rank=rank, **settings), 1).tolist()) for rank in (0, 1))
    assert len(first) == len(second) == 3 and not first & second


def test_a_stream_without_a_readable_picture_ends_with_the_reason(folder):
    for path in folder.rglob("*.*"):
        path.write_bytes(b"?")
    stream = stream_batches(str(folder), size=(16, 16), batch_size=2, seed=0)
    with pytest.raises(UserError, match="none of its pictures can be used; one is .*: not a picture"):
        next(stream)
