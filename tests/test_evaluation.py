import copy
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

from fastgan import Generator, ModelConfig, TrainConfig, cards, evaluation, metrics
from fastgan.cli import main
from fastgan.data import load_pictures
from fastgan.hub import save_model, weights_hash
from fastgan.pixels import to_uint8
from tests.commands import EMOJI

SIZE = 32


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A folder of sixteen faces."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    folder.mkdir()
    for file in sorted(EMOJI.glob("*.webp"))[:160:10]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(ModelConfig(SIZE, SIZE, z_dim=8, ngf=4)).eval()


@pytest.fixture
def run(tmp_path, generator, faces) -> Path:
    """A run folder as training leaves it."""
    folder = tmp_path / "my-run"
    save_model(generator, folder)
    settings = TrainConfig(dataset=str(faces), size=str(SIZE), z_dim=8, ngf=4)
    (folder / "train_config.json").write_text(json.dumps(settings.to_dict()))
    return folder


def test_the_command_prints_and_writes_every_figure_with_what_it_takes_to_read_it(run, cache, faces, capsys):
    command = ["evaluate", str(run), "--network", "efficientnet-lite1,efficientnet-lite0", "--cache-dir", str(cache)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "my-run: 16 drawn pictures (seeds 0-15) against 16 real ones of faces, 32x32" in said
    assert "efficientnet-lite1  efficientnet-lite0 *" in said
    assert "* taught this model, so its figures flatter it" in said
    assert "efficientnet-lite1: pictures resized antialiased bilinear to 240x240" in said
    assert str(run.parent) not in said.split("Wrote")[0]
    for label in ("FID", "KID x1000", "precision", "recall", "density", "coverage", "diversity", "copies", "distance"):
        assert f"\n{label} " in said

    found = json.loads((run / "metrics.json").read_text())
    assert [result["network"] for result in found["results"]] == ["efficientnet-lite1", "efficientnet-lite0"]
    assert [result["network_taught_model"] for result in found["results"]] == [False, True]
    assert {(result["real_images"], result["fake_images"]) for result in found["results"]} == {(16, 16)}
    assert found["dataset"]["dataset"] == "faces" and str(faces.parent) not in json.dumps(found)
    assert found["weights_sha256"] == weights_hash(run)
    assert f"{found['results'][0]['fid']:.1f}" in said

    with safe_open(run / "training" / "features.safetensors", "pt") as file:
        assert file.metadata()["network"] == "efficientnet-lite1"
        assert file.metadata()["fingerprint"] == found["fingerprint"]
        assert file.get_tensor("features").shape == (16, 1280)

    with Image.open(run / "nearest.png") as sheet:
        assert sheet.height > 8 * SIZE and sheet.width > 6 * SIZE
    assert len(found["most_alike"]) == 8
    distances = [row["distances"][0] for row in found["most_alike"]]
    assert distances == sorted(distances)


def test_against_other_pictures_than_those_of_the_training_nothing_is_said_of_copies(run, cache, tmp_path, capsys):
    trained_on = load_pictures(str(EMOJI), size=(SIZE, SIZE), cache_dir=cache, progress=False)
    (run / "run.json").write_text(json.dumps({"fingerprint": trained_on.fingerprint}))
    assert main(["evaluate", str(run), "--cache-dir", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "These are not the pictures that it learned from, so nothing is said of copies" in said
    assert "\ncopies " not in said and "training picture" not in said
    assert said.endswith(f"Wrote metrics.json into {run}\n")
    assert json.loads((run / "metrics.json").read_text())["training_pictures"] is False
    assert not (run / "nearest.png").exists() and not (run / "training").exists()
    [kid] = [figure for figure in cards._measured(run, None, best=False) if figure.kind == "kid"]
    assert kid.pictures == "16 drawn (seeds 0-15), 16 real of `faces`, which it did not learn from"
    assert not {figure.kind for figure in cards._measured(run, None, best=False)} & {"near_share", "distance_ratio"}


def test_a_broken_model_is_not_measured(run, cache, generator, capsys):
    broken = copy.deepcopy(generator)
    with torch.no_grad():
        broken.to_full.parametrizations.weight.original[0, 0, 0, 0] = torch.nan
    save_model(broken, run)
    assert main(["evaluate", str(run), "--cache-dir", str(cache)]) == 2
    assert "the model is broken: to_full" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()


def test_the_figures_are_those_of_the_pictures_that_the_seeds_draw(generator, faces, cache, tmp_path):
    pictures = load_pictures(str(faces), size=(SIZE, SIZE), cache_dir=cache, progress=False)
    found = evaluation.evaluate(generator, pictures, ["efficientnet-lite0"], seeds="3-12", cache_dir=cache)
    drawn = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in generator.sample(range(3, 13))]
    network = metrics.feature_network("efficientnet-lite0")
    real, mirrored, fake = (
        metrics.extract(network, images) for images in (pictures.images, pictures.images.flip(-1), torch.stack(drawn))
    )
    by_hand = metrics.measure(real, fake, network, None, mirrored).to_dict()
    for key, value in found.results[0].to_dict().items():
        numbers = isinstance(value, (float, tuple))
        assert value == (pytest.approx(by_hand[key], rel=1e-3, abs=1e-4) if numbers else by_hand[key]), key
    nearest = metrics.nearest_training(fake, real, mirrored)
    assert found.alike[0].seed == 3 + int(nearest.distances[:, 0].argmin())


def test_figures_of_copies_say_that_they_are_copies(generator, faces, cache, tmp_path):
    """The training pictures are what the generator draws, half of them mirrored."""
    pictures = load_pictures(str(faces), size=(SIZE, SIZE), cache_dir=cache, progress=False)
    drawn = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in generator.sample(range(12))]
    copies = torch.stack([image.flip(-1) if i % 2 else image for i, image in enumerate(drawn)])
    stolen = type(pictures)(copies, "copies", pictures.source, [])
    found = evaluation.evaluate(generator, stolen, ["efficientnet-lite0"], cache_dir=tmp_path, folder=tmp_path)
    figures = found.results[0]
    assert (figures.near_share, figures.distance_ratio) == (1, 0)
    # The two sides go through the network in batches of different sizes, which round differently.
    assert max(figures.nearest_generated) < 1e-4 * min(figures.nearest_training)
    assert sorted(row.training[0] for row in found.alike) == sorted(row.seed for row in found.alike)


def test_real_pictures_are_looked_at_once(generator, faces, cache, monkeypatch):
    pictures = load_pictures(str(faces), size=(SIZE, SIZE), cache_dir=cache, progress=False)
    first = evaluation.evaluate(generator, pictures, ["efficientnet-lite0"], cache_dir=cache)
    seen = []
    extract = metrics.extract
    monkeypatch.setattr(
        metrics, "extract", lambda network, images, *rest: seen.append(1) or extract(network, images, *rest)
    )
    again = evaluation.evaluate(generator, pictures, ["efficientnet-lite0"], cache_dir=cache)
    assert sum(seen) == 16  # the drawn ones only
    assert again == first


def test_a_generator_that_has_yet_to_grow_is_compared_with_real_pictures_as_small(generator, faces, cache):
    pictures = load_pictures(str(faces), size=(2 * SIZE, 2 * SIZE), cache_dir=cache, progress=False)
    measure = evaluation.Evaluator("efficientnet-lite1", pictures, 8, cache_dir=cache)
    figures, alike = measure(generator)
    small = to_uint8(F.avg_pool2d(pictures.images / 127.5 - 1, 2))
    torch.testing.assert_close(measure.real, metrics.extract(measure.network, [small], "cpu"))
    assert max(row for one in alike for row in one.training) < len(pictures.images)

    grown = Generator(dataclasses.replace(generator.config, height=2 * SIZE, width=2 * SIZE)).eval()
    measure(grown)
    torch.testing.assert_close(measure.real, metrics.extract(measure.network, [pictures.images], "cpu"))
    assert measure(generator)[0] == figures


def test_a_sheet_of_transparent_or_grey_pictures_is_drawn(tmp_path, faces, cache):
    for channels in (1, 4):
        torch.manual_seed(0)
        generator = Generator(ModelConfig(SIZE, 2 * SIZE, channels, z_dim=8, ngf=4)).eval()
        pictures = load_pictures(str(faces), size=(SIZE, 2 * SIZE), channels=channels, cache_dir=cache, progress=False)
        found = evaluation.evaluate(generator, pictures, ["efficientnet-lite0"], cache_dir=cache, folder=tmp_path)
        assert len(found.alike) == 8
        with Image.open(tmp_path / "nearest.png") as sheet:
            assert sheet.mode == "RGB"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--network", "vgg"], "no 'vgg', choose one of inception"),
        (["--images", "3"], "--images: expected at least 6, got 3"),
        (["--seeds", "0-2"], "3 generated pictures are too few"),
        (["--fit", "squeeze"], "--fit: expected one of crop, pad, stretch"),
        (["--dataset", "/no/where"], "no/where"),
        (["--psi", "5"], "psi: expected a number from 0 to 2"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run, cache, capsys, flags, says):
    assert main(["evaluate", str(run), "--cache-dir", str(cache), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not (run / "metrics.json").exists()


def test_messages_speak_of_this_commands_flags(run, faces, tmp_path, monkeypatch, capsys):
    assert main(["evaluate", str(run), "--dataset-revision", "v2"]) == 2
    said = f"error: dataset revision v2: {faces} is on this disk; only datasets on the Hub have any\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert main(["evaluate", str(run), "--cache-dir", str(tmp_path / "cache")]) == 2
    assert capsys.readouterr().err.endswith(" GB are free; name a folder on a larger disk\n")


def test_a_model_that_does_not_say_its_dataset_needs_one(run, capsys):
    (run / "train_config.json").unlink()
    assert main(["evaluate", str(run)]) == 2
    assert "which pictures should it be compared with? Give --dataset" in capsys.readouterr().err
