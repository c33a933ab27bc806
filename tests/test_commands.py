import socket
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import Generator, ModelConfig, fast
from fastgan.cli import main
from fastgan.hub import save_model

SIZE = 64
EMOJI = str(Path(__file__).parents[1] / "examples" / "emoji_faces")
FACE = str(next(Path(EMOJI).glob("*.webp")))


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(ModelConfig(SIZE, SIZE, z_dim=8, ngf=4))
    with torch.no_grad():
        for _ in range(30):  # batch-norm statistics of its own, or all pictures are grey and alike
            generator(torch.randn(16, 8))
    return generator.eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory, generator) -> str:
    folder = tmp_path_factory.mktemp("runs") / "faces"
    save_model(generator, folder)
    return str(folder)


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    left, top = (2 + place * (SIZE + 2) for place in (column, row))
    return np.asarray(sheet.crop((left, top, left + SIZE, top + SIZE)))


def drawn(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_a_film_passes_through_the_pictures_of_its_seeds(model, generator, tmp_path, capsys):
    out = tmp_path / "new" / "walk.webp"
    assert main(["interpolate", model, "--seeds", "3,5", "--frames", "4", "--fps", "8", "--out", str(out)]) == 0
    assert "5 frames, 0.6 s, in" in capsys.readouterr().out
    with Image.open(out) as film:
        assert film.n_frames == 5
        for frame, seed in ((0, 3), (4, 5)):
            film.seek(frame)
            difference = np.abs(drawn(film.convert("RGB")).astype(float) - drawn(generator.sample([seed])[0]))
            assert difference.mean() < 20  # WebP keeps noise only roughly


def test_a_loop_of_any_format_is_written(model, tmp_path):
    for name in ("walk.mp4", "walk.gif"):
        flags = ["--seeds", "0-2", "--frames", "2", "--loop", "--even", "--straight", "--psi", "0.7"]
        assert main(["interpolate", model, *flags, "--hold-style", "9", "--out", str(tmp_path / name)]) == 0
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 6
    with av.open(str(tmp_path / "walk.mp4")) as film:
        assert len(list(film.decode(video=0))) == 6


def test_a_picture_is_drawn_without_speed_ups_where_that_is_asked_for(model, tmp_path):
    pictures = []
    for flags in ([], ["--no-fast"]):
        # In half precision one sees which way was taken: both are rounded, and not alike.
        assert main(["sample", model, "--seeds", "3", "--precision", "bf16", "--out", str(tmp_path), *flags]) == 0
        with Image.open(tmp_path / "seed0003.png") as picture:
            pictures.append(drawn(picture).astype(int))
    quick, plain = pictures
    assert 0 < np.abs(quick - plain).max() < 16  # of 255
    assert fast.enabled()


def test_a_mixing_grid_holds_contents_styles_and_their_mixes(model, generator, tmp_path):
    out = tmp_path / "mix.png"
    assert main(["mix", model, "--content", "1,2", "--style", "1,7,8", "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.size == (4 * (SIZE + 2) + 2, 3 * (SIZE + 2) + 2)
        assert sheet.text["fastgan:content"] == "1,2" and sheet.text["fastgan:gates"] == "all"
        assert sheet.text["fastgan:model"] == "faces"
        assert (cell(sheet, 0, 0) == 255).all()
        for column, seed in enumerate((1, 7, 8)):
            assert (cell(sheet, 0, 1 + column) == drawn(generator.sample([seed])[0])).all()
        assert (cell(sheet, 2, 0) == drawn(generator.sample([2])[0])).all()
        assert (cell(sheet, 1, 1) == drawn(generator.sample([1])[0])).all()  # a picture mixed with itself
        assert (cell(sheet, 2, 3) == drawn(generator.sample([2], style_seeds=[8])[0])).all()


def test_gates_and_strength_say_what_takes_the_style(model, generator, tmp_path):
    out = tmp_path / "mix.png"
    command = ["mix", model, "--content", "1", "--style", "7", "--out", str(out)]
    for flags, strength in (
        (["--strength", "0"], 0.0),
        (["--strength", "0.3"], 0.3),
        (["--gates", "64:0.6"], {64: 0.6}),
        (["--gates", "64", "--strength", "0.5"], 0.5),
    ):
        assert main([*command, *flags]) == 0
        expected = generator.sample([1], style_seeds=[7], style_strength=strength)[0]
        with Image.open(out) as sheet:
            assert (cell(sheet, 1, 1) == drawn(expected)).all(), flags


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["interpolate", "--out", "walk.avi"], "--out walk.avi: expected a name that ends in .mp4, .gif, .webp"),
        (["interpolate", "--out", "walk.gif", "--seeds", "4"], "a walk needs at least 2 seeds"),
        (["interpolate", "--out", "walk.gif", "--frames", "0"], "1 frame between them"),
        (["interpolate", "--out", "walk.gif", "--frames", "1", "--fps", "0"], "expected 1 to 120 frames per second"),
        (["interpolate", "--out", "walk.gif", "--psi", "9"], "--psi: expected a number from 0 to 2, got 9"),
        (["interpolate", "--out", "walk.gif", "--hold-style", "-4"], "seed: expected a whole number"),
        (["interpolate", "--out", "walk.gif", "--frames", "100000000"], "--frames 100000000: expected"),
        (["interpolate", "--out", "walk.gif", "--strength", "0.5"], "give --hold-style SEED too"),
        (["sample", "--grid", "grid.png", "--seeds", "9" * 5000], "--seeds: each is at most 4294967295"),
        (["sample", "--grid", "grid.png", "--seeds", "0-99999"], "are too many; try --out"),
        (["sample", "--out", "pictures", "--psi", "7"], "--psi: expected a number from 0 to 2, got 7"),
        (["sample", "--out", "pictures", "--revision", "v1"], "is a folder; only models on the Hub have revisions"),
        (["project", "nowhere.png"], "nowhere.png: no such file"),
        (["project", "."], ".: a folder; name one picture in it"),
        (["project", FACE, "--starts", "0"], "--starts: expected a number from 1 to 10,000, got 0"),
        (["project", FACE, "--steps", "100000000"], "--steps: expected a number from 1 to 100,000"),
        (["export", "--out", "/proc/nothing"], "/proc/nothing: could not be written"),
        (["card", "--repo", "a b"], "--repo a b: no Hub id; it looks like user/name"),
        (["app", "--port", "80000"], "--port: expected a number from 1 to 65535, got 80000"),
        (["app", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: no address of this machine"),
        (["evaluate", "--dataset", EMOJI, "--out", "/proc/nothing"], "/proc/nothing: could not be written"),
        (["evaluate", "--dataset", EMOJI, "--psi", "7"], "--psi: expected a number from 0 to 2, got 7"),
        (["mix", "--out", "mix.jpg"], "--out mix.jpg: expected a name that ends in .png"),
        (["mix", "--out", "mix.png", "--gates", "256"], "this model has no gate 256; it has 64"),
        (["mix", "--out", "mix.png", "--gates", "low"], "expected levels like 64,128:0.5, got 'low'"),
        (["mix", "--out", "mix.png", "--strength", "3"], "--strength: expected a number from 0 to 1, got 3"),
        (["mix", "--out", "mix.png", "--gates", "64:5"], "--gates: expected strengths from 0 to 1, got '64:5'"),
        (["mix", "--out", "mix.png", "--style", ""], "--style: expected numbers and ranges"),
        (["mix", "--out", "mix.png", "--content", "0-99", "--style", "0-99"], "are more than 2,500 pictures"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(model, tmp_path, monkeypatch, capsys, command, says):
    monkeypatch.chdir(tmp_path)
    assert main([command[0], model, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not list(Path(tmp_path).iterdir())


def test_a_port_that_is_taken_is_said_before_the_model_is_opened(model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["app", str(Path(model) / "nowhere"), "--port", port]) == 2
    assert f"--port {port}: Address already in use; leave it out" in capsys.readouterr().err


def test_a_model_without_gates_is_not_mixed(tmp_path, capsys):
    save_model(Generator(ModelConfig(32, 32, z_dim=8, ngf=4)), tmp_path / "small")
    assert main(["mix", str(tmp_path / "small"), "--out", str(tmp_path / "mix.png")]) == 2
    assert "small has no gates to mix through" in capsys.readouterr().err
