import copy
import json
import math
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from PIL import Image
from safetensors.torch import load_file
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

import fastgan
from fastgan import TrainConfig, UserError
from fastgan.checkpoints import Best, best_of_run, checkpoints_in, read_state, save_checkpoint
from fastgan.cli import train_main
from fastgan.data import load_pictures
from fastgan.evaluation import evaluate
from fastgan.launch import HANG_UP
from fastgan.models import downscale
from fastgan.objectives import frozen
from fastgan.run_folder import RunFolder, folder_of
from fastgan.trainer import Stop, Trainer, train
from fastgan.watch import best_of, evaluations, read_log
from tests.commands import PATIENCE, ROOT, wait_for

TINY = "--recipe paper --batch-size 8 --size 32 --ngf 4 --ndf 4 --z-dim 16 --eval-images 0".split()
TINY += ["--mixed-precision", "no", "--log-every", "0.008kimg"]
PARTS = ("generator", "discriminator", "ema", "optimizer_generator", "optimizer_discriminator")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny(tmp_path, cache, pictures):
    """Settings of a run that takes a second or two."""

    def make(name="run", **changes) -> TrainConfig:
        settings = {
            "recipe": "paper",
            "dataset": pictures,
            "cache_dir": cache,
            "size": "32",
            "ngf": 4,
            "ndf": 4,
            "z_dim": 16,
            "mixed_precision": "no",
            "eval_images": 0,
            "max_steps": 4,
            "log_every": "0.008kimg",
            "output_dir": str(tmp_path / name),
        }
        return TrainConfig(**{**settings, **changes})

    return make


def newest(run: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint, by file and name."""
    checkpoint = checkpoints_in(Path(run) / "checkpoints")[-1]
    return {f"{part}/{k}": v for part in PARTS for k, v in load_file(checkpoint / f"{part}.safetensors").items()}


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def test_a_run_leaves_a_loadable_model_a_grid_and_a_log(tiny):
    folder = train(tiny(keep_checkpoints=1, checkpoint_every="0.016kimg"))
    generator = fastgan.from_pretrained(folder)
    assert generator.sample([0])[0].size == (32, 32)
    assert Image.open(folder / "samples.png").size == (4 * 34 + 2, 4 * 34 + 2)
    assert Image.open(folder / "reconstruction.png").size == (8 * 34 + 2, 5 * 34 + 2)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines if "loss/d" in line] == [8, 16, 24, 32]
    assert lines[0]["loss/d"] > 0 and lines[0]["loss/reconstruction"] > 0
    assert [path.name for path in checkpoints_in(folder / "checkpoints")] == ["checkpoint-0000000032"]
    assert TrainConfig.from_dict(json.loads((folder / "train_config.json").read_text())).max_steps == 4
    assert not list(folder.rglob(".*"))
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in folder.rglob("*") if file.is_file())


def test_evaluations_are_logged_with_what_they_were_measured_with_and_the_best_is_kept(tiny, pictures, cache):
    folder = train(tiny(eval_images=8, eval_every="0.016kimg"))
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "kid" in line]
    assert [line["images"] for line in measured] == [16, 32]  # the one at the end is not measured twice
    for line in measured:
        assert (line["network"], line["real_images"], line["fake_images"]) == ("efficientnet-lite1", 26, 8)
        assert line["network_taught_model"] is False
        assert 0 <= line["recall"] <= 1 and 0 <= line["coverage"] <= 1 and line["kid_std"] > 0
    best = min(measured, key=lambda line: line["kid"])
    with Image.open(folder / "nearest.png") as sheet:
        assert sheet.width > 6 * 32
    settings = load_pictures(pictures, size=(32, 32), cache_dir=Path(cache), progress=False)
    again = evaluate(
        fastgan.from_pretrained(folder / "best"),
        settings,
        ["efficientnet-lite1"],
        "0-7",
        cache_dir=Path(cache),
    )
    assert again.results[0].kid == pytest.approx(best["kid"], rel=1e-3)
    features = load_file(folder / "training" / "features.safetensors")["features"]
    assert features.shape == (26, 1280)


def test_what_cannot_be_measured_is_said_and_trains(tiny, capsys):
    folder = train(tiny(eval_images=8, streaming=True, max_steps=1))
    assert "KID is not measured: that needs at least 6 pictures, and not --streaming" in capsys.readouterr().err
    assert not (folder / "best").exists() and (folder / "report.html").is_file()


def test_a_network_that_teaches_says_that_it_flatters(tiny, capsys):
    train(tiny(eval_images=8, eval_network="efficientnet-lite0", max_steps=1))
    assert "--eval-network efficientnet-lite0 also teaches the model" in capsys.readouterr().err


def test_the_saved_model_draws_the_saved_grid(tiny):
    folder = train(tiny())
    grid = Image.open(folder / "samples.png")
    picture = fastgan.from_pretrained(folder).sample([5])[0]
    assert grid.crop((2 + 34, 2 + 34, 34 + 34, 34 + 34)).tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 1},
        {"channels": 4, "augment": "color,translation,cutout"},
        {"size": "32x48"},
        {"reconstruction_weight": 0.0},
        {"mixed_precision": "bf16"},
        {"accumulate": 2},
        {"streaming": True},
        {"augment": "none", "flip": False, "fit": "pad"},
        {"recipe": "projected", "batch_size": 8},
        {"recipe": "projected", "batch_size": 8, "channels": 1},
        {"recipe": "projected", "batch_size": 8, "channels": 4},
        {"recipe": "projected", "batch_size": 8, "size": "32x48", "accumulate": 2},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_kind_of_run_trains(tiny, changes):
    folder = train(tiny(max_steps=2, **changes))
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert line["images"] == 16
    assert 0 < line["loss/d"] < 10
    picture = fastgan.from_pretrained(folder).sample([0])[0]
    assert picture.mode == {1: "L", 4: "RGBA"}.get(changes.get("channels"), "RGB")


def test_runs_of_one_process_choose_their_own_precision(tiny):
    for precision in ("bf16", "no"):
        trainer = Trainer(tiny(precision, mixed_precision=precision))
        assert trainer.accelerator.mixed_precision == precision
        trainer.close()
    with pytest.raises(UserError, match="--mixed-precision fp16"):
        Trainer(tiny("fp16", mixed_precision="fp16"))
    with pytest.raises(UserError, match="--batch-size"):
        Trainer(tiny("batch", mixed_precision="bf16", batch_size=300))
    assert not is_initialized()


def test_a_callers_own_accelerator_is_left_alone(tiny):
    mine = Accelerator(mixed_precision="bf16")
    try:
        with pytest.raises(UserError, match="--mixed-precision no"):
            Trainer(tiny(mixed_precision="no"))
        Trainer(tiny(mixed_precision="auto")).close()
        assert mine.mixed_precision == "bf16" and is_initialized()
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("recipe", ["paper", "projected"])
def test_a_resumed_run_is_the_run_that_never_stopped_to_the_last_bit(tiny, recipe):
    whole = train(tiny("whole", recipe=recipe))
    train(tiny("halves", recipe=recipe, max_steps=2))
    halves = train(tiny("halves", recipe=recipe), resume=True)
    assert_equal(newest(whole), newest(halves))
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()
    assert (whole / "samples.png").read_bytes() == (halves / "samples.png").read_bytes()


GROWING = {"recipe": "projected", "size": "128", "grow_from": 32}


def test_a_run_starts_small_and_keeps_what_fits_as_it_grows(tiny, capsys):
    often = {"eval_images": 8, "eval_every": "0.008kimg", "sample_every": "0.008kimg"}
    folder = train(tiny(max_steps=8, **GROWING, **often))
    assert fastgan.from_pretrained(folder).config.level == fastgan.from_pretrained(folder / "best").config.level == 128
    said = capsys.readouterr().err
    # Half of the run is over after 4 steps, three quarters after 6: sizes last 4, 2 and 3 parts of 9.
    assert "0.0 kimg: pictures grow to 64x64" in said and "0.0 kimg: pictures grow to 128x128" in said
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    levels = [line["level"] for line in lines if "kid" in line]
    assert levels == [32, 32, 32, 32, 64, 64, 128, 128]
    widths = [Image.open(path).width for path in sorted((folder / "samples").glob("*.png"))]
    assert widths == [4 * (level + 2) + 2 for level in levels]


def test_growing_changes_no_layer_that_fits(tiny):
    trainer = Trainer(tiny(**GROWING))
    batches = trainer._batches()
    trainer.train_on(next(batches))
    before = {name: copy.deepcopy(network.state_dict()) for name, network in trainer._parts()[0].items()}
    trainer.grow(64)
    after = {name: network.state_dict() for name, network in trainer._parts()[0].items()}
    changed = {
        name: {key for key, value in state.items() if not torch.equal(before[name].get(key, torch.empty(0)), value)}
        for name, state in after.items()
    }
    for name in ("generator", "ema"):
        assert all(key.startswith(("up.64.", "sle.64.", "to_")) for key in changed[name])
    assert not any(key.startswith("pixels.") for key in changed["discriminator"])
    assert changed["discriminator"] < {key for key in after["discriminator"] if key.startswith("heads.")}
    trainer.train_on(next(batches))
    trainer.close()
    weight = next(key for key in after["generator"] if key not in changed["generator"] and key.endswith("weight"))
    assert not torch.equal(before["generator"][weight], after["generator"][weight])  # it goes on learning


@pytest.mark.parametrize("level", [32, 64])
def test_both_generators_go_on_with_the_small_pictures(tiny, level):
    trainer = Trainer(tiny(**{**GROWING, "size": str(2 * level), "grow_from": level}, ngf=16))
    trainer.step(trainer._batches())
    z = torch.randn(32, 16)

    def drawn() -> list[torch.Tensor]:
        with torch.no_grad():
            return [
                network.train()(z).full for name, network in trainer._parts()[0].items() if name != "discriminator"
            ]

    before = drawn()
    trainer.grow(2 * level)
    for small, large in zip(before, drawn(), strict=True):
        together = torch.stack([small.flatten(), downscale(large, 2).flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.8
    trainer.close()


def test_a_growing_run_killed_at_any_size_resumes_to_the_same_weights(tiny):
    config = tiny(**{**GROWING, "size": "64"}, max_steps=6, checkpoint_every="0.008kimg", keep_checkpoints=6)
    folder = train(config)
    whole, checkpoints = newest(folder), checkpoints_in(folder / "checkpoints")
    for last in (5, 4, 1):  # at full size, just before it, on the way
        for checkpoint in checkpoints[last:]:
            shutil.rmtree(checkpoint)
        train(config, resume=True)
        assert_equal(whole, newest(folder))


def test_a_run_is_full_size_at_its_end_however_short(tiny):
    by_time = tiny("by time", max_steps=None, max_minutes=0.05, **GROWING)
    assert fastgan.from_pretrained(train(by_time)).config.level == 128
    assert fastgan.from_pretrained(train(tiny("one step", max_steps=1, **GROWING))).config.level == 128


def test_views_of_real_pictures_are_kept_step_by_step_whatever_its_parts(tiny):
    kept = []
    for accumulate in (1, 2):
        run = train(tiny(f"in {accumulate}", recipe="projected", batch_size=4, accumulate=accumulate, max_steps=3))
        kept.append(load_file(checkpoints_in(run / "checkpoints")[-1] / "memory.safetensors"))
    assert {len(view) for views in kept for view in views.values()} == {12}
    # Each part is changed in its own way, so only the means over pictures are about the same.
    for name, view in kept[0].items():
        torch.testing.assert_close(view.mean(), kept[1][name].mean(), rtol=0.1, atol=0.1)


def test_saving_and_sampling_on_the_way_change_nothing(tiny):
    quiet = train(tiny("quiet"))
    often = "0.008kimg"
    busy = train(tiny("busy", sample_every=often, checkpoint_every=often, eval_every=often, eval_images=8))
    assert_equal(newest(quiet), newest(busy))


# Runs a script that is killed the moment before it touches paths that contain a text for the nth time.
KILLED = """
import os, runpy, signal, sys

place, left = sys.argv[1], int(sys.argv[2])

def watch(event, arguments):
    global left
    if arguments and place in str(arguments[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_run_killed_at_any_moment_resumes_to_the_same_weights(tmp_path, cache, pictures, start):
    """All runs are processes of their own with one thread: a sum over other numbers of threads rounds differently."""
    settings = ["--dataset", pictures, "--cache-dir", cache, *TINY, "--batch-size", "2", "--max-steps", "10"]
    whole, run = tmp_path / "whole", tmp_path / "killed"
    never_killed = start(*settings, "--output-dir", str(whole))
    checkpoints = run / "checkpoints"
    often = ["--checkpoint-every", "0.002kimg", "--sample-every", "0.002kimg", "--output-dir", str(run)]
    # A step touches its folder some 50 times and a checkpoint 13 times: the last one dies while it saves its second.
    moments = [(f"{run}/", 118), (f"{run}/", 90), (".checkpoint-", 18)]
    for count, (place, touches) in enumerate(moments):
        arguments = ["--resume", str(run)] if count else [*settings, *often]
        process = start(*arguments, launcher=(sys.executable, "-c", KILLED, place, str(touches)))
        output = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == -signal.SIGKILL, f"not killed at touch {touches} of {place}: {output}"
    assert list(checkpoints.glob(".checkpoint-*")) and len(checkpoints_in(checkpoints)) > 1
    process = start("--resume", str(run))
    for one in (process, never_killed):
        output = one.communicate(timeout=PATIENCE)[0]
        assert one.returncode == 0, output

    assert_equal(newest(whole), newest(run))
    assert (whole / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    images = [json.loads(line)["images"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert images == sorted(set(images))
    assert not list(checkpoints.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HANG_UP])
def test_what_ends_a_run_from_outside_saves_and_says_how_to_go_on(tmp_path, cache, pictures, start, number):
    run = tmp_path / "run"
    limit = ("--max-minutes", "5")
    process = start("--dataset", pictures, "--cache-dir", cache, *TINY, *limit, "--output-dir", str(run))
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130
    assert f"--resume {run}" in output and "Traceback" not in output
    assert fastgan.from_pretrained(run).config.level == 32
    assert len(checkpoints_in(run / "checkpoints")) == 1


@pytest.mark.skipif(not hasattr(os, "forkpty"), reason="notebooks give cells no such terminal there")
def test_a_cell_of_a_notebook_that_is_stopped_saves_though_it_is_killed(tmp_path, cache, pictures):
    run = tmp_path / "run"
    flags = ["--dataset", pictures, "--cache-dir", cache, *TINY, "--max-minutes", "5", "--output-dir", str(run)]
    pid, terminal = os.forkpty()
    if not pid:
        os.chdir(ROOT)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "JPY_PARENT_PID": "1"}
        os.execve(sys.executable, [sys.executable, "train.py", *flags], environment)
    deadline = time.monotonic() + PATIENCE
    while not (run / "log.jsonl").exists() and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 10_000)
    os.write(terminal, b"\x03")
    time.sleep(0.5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    while not (run / "report.html").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(checkpoints_in(run / "checkpoints")) == 1
    assert fastgan.from_pretrained(run).config.level == 32


def test_a_run_killed_before_its_first_checkpoint_can_be_begun_anew(tiny, tmp_path, capsys):
    config = tiny()
    shutil.rmtree(train(config) / "checkpoints")
    with pytest.raises(UserError, match="holds a model already; choose another --output-dir"):
        train(config)
    with pytest.raises(UserError, match="no checkpoint there; its model can be a start: --init-from"):
        train(config, resume=True)
    best = tmp_path / "run" / "best" / "model.safetensors"
    best.parent.mkdir()
    (tmp_path / "run" / "model.safetensors").rename(best)
    with pytest.raises(UserError, match="holds a model already"):
        train(config)
    best.unlink()  # what is left is that of a run that was killed early
    with pytest.raises(UserError, match="no checkpoint there; start it again without --resume"):
        train(config, resume=True)
    log = train(config) / "log.jsonl"
    assert [json.loads(line)["images"] for line in log.read_text().splitlines()] == [8, 16, 24, 32]


def test_a_start_that_is_refused_deletes_nothing(tiny, tmp_path):
    foreign = [tmp_path / "run" / "log.jsonl", tmp_path / "run" / "samples" / "0123456789.png"]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    with pytest.raises(UserError, match="--batch-size 300"):
        Trainer(tiny(batch_size=300))
    assert [file.read_text() for file in foreign] == ["mine", "mine"]
    (tmp_path / "run" / "train_config.json").write_text("{}")  # now it is what a killed run left
    with pytest.raises(UserError, match="--batch-size 300"):
        Trainer(tiny(batch_size=300))
    log = train(tiny()) / "log.jsonl"
    assert [json.loads(line)["images"] for line in log.read_text().splitlines()] == [8, 16, 24, 32]


@pytest.mark.parametrize("end", ["length", "Ctrl-C"])
def test_a_run_that_diverged_in_its_last_steps_is_no_success(tiny, end):
    trainer = Trainer(tiny(max_steps=2, log_every="never"))
    with torch.no_grad():
        next(trainer.players.generator.parameters()).fill_(math.nan)
    if end == "Ctrl-C":
        trainer.wish = Stop.INTERRUPTED
    with pytest.raises(UserError, match="the loss is no longer a number"):
        trainer.run()
    assert not (trainer.folder / "model.safetensors").exists()
    trainer.close()


def test_weights_that_the_very_last_step_broke_are_not_saved(tiny):
    trainer = Trainer(tiny(max_steps=2))
    step = trainer.step

    def step_and_break(batches):
        done = step(batches)
        if trainer.state.steps == 2:  # its losses were computed before
            with torch.no_grad():
                next(trainer.players.discriminator.parameters()).fill_(math.nan)
        return done

    trainer.step = step_and_break
    with pytest.raises(UserError, match="the loss is no longer a number"):
        trainer.run()
    assert not (trainer.folder / "model.safetensors").exists()
    trainer.close()


def test_a_finished_run_that_is_resumed_stays_as_it_is(tiny, capsys):
    config = tiny(eval_images=8)
    folder = train(config)
    before, log = newest(folder), (folder / "log.jsonl").read_text()
    train(config, resume=True)
    assert (folder / "log.jsonl").read_text() == log
    assert "is at its full length; a larger --max-steps makes it go on" in capsys.readouterr().err
    assert_equal(before, newest(folder))
    assert len(checkpoints_in(folder / "checkpoints")) == 1


def test_what_cannot_be_measured_for_want_of_room_is_said_and_loses_nothing(tiny, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_text("in the way")
    folder = train(tiny(eval_images=8, eval_every="0.016kimg", cache_dir=str(tmp_path / "cache")))
    assert capsys.readouterr().err.count("Not measured at 0.0 kimg: feature cache: can't write to") == 2
    assert fastgan.from_pretrained(folder).config.level == 32 and not (folder / "best").exists()


def test_a_run_that_goes_on_from_before_its_best_keeps_it(tiny):
    measured = {"eval_images": 8, "eval_every": "0.008kimg", "checkpoint_every": "0.008kimg"}
    folder = train(tiny(**measured, max_steps=3))
    best = folder / "best"
    (best / "kid.json").write_text('{"kid": -1.0, "images": 24}')
    shutil.rmtree(checkpoints_in(folder / "checkpoints")[-1])
    weights = (best / "model.safetensors").read_bytes()
    train(tiny(**measured), resume=True)
    assert (best / "model.safetensors").read_bytes() == weights
    assert best_of_run(folder) == Best(-1.0, 24)
    (best / "kid.json").write_text('{"kid": -1.0, "images": 24, "copies": true}')
    train(tiny(**measured, max_steps=5), resume=True)
    assert best_of_run(folder).kid > -1.0 and not best_of_run(folder).copies


def test_a_run_says_when_its_pictures_have_changed(tiny, pictures, tmp_path, capsys):
    mine = shutil.copytree(pictures, tmp_path / "faces")
    train(tiny(dataset=str(mine), max_steps=1))
    next(mine.glob("*.webp")).unlink()
    train(tiny(dataset=str(mine), max_steps=2), resume=True)
    assert "not the pictures that this run began with (26 then, 25 now); it goes on" in capsys.readouterr().err


def test_the_best_model_of_other_pictures_is_replaced(tiny, pictures, tmp_path):
    mine = shutil.copytree(pictures, tmp_path / "faces")
    measured = {"dataset": str(mine), "eval_images": 8, "eval_every": "0.008kimg"}
    folder = train(tiny(**measured, max_steps=1))
    best = json.loads((folder / "best" / "kid.json").read_text())
    (folder / "best" / "kid.json").write_text(json.dumps(best | {"kid": -1.0}))
    next(mine.glob("*.webp")).unlink()
    train(tiny(**measured, max_steps=2), resume=True)
    assert best_of_run(folder).images == 16 and best_of_run(folder).kid > -1.0
    first, second = evaluations(read_log(folder / "log.jsonl"))
    assert best_of([first, second]) is second and first["pictures"] == best["pictures"] != second["pictures"]


def test_broken_pictures_are_told_at_each_start_and_listed(tiny, pictures, tmp_path, capsys):
    mine = Path(shutil.copytree(pictures, tmp_path / "faces"))
    (mine / "broken.png").write_bytes(b"no picture")
    folder = train(tiny(dataset=str(mine), max_steps=1))
    said = f"1 picture was left out; {folder / 'skipped.tsv'} says why"
    assert capsys.readouterr().err.count(said) == 1
    assert (folder / "skipped.tsv").read_text().startswith("broken.png\t")
    train(tiny(dataset=str(mine), max_steps=2), resume=True)
    assert capsys.readouterr().err.count(said) == 1


def test_pauses_are_no_part_of_the_training_rate(tiny):
    trainer = Trainer(tiny())
    trainer.log_clock, before = (10.0, 8), time.monotonic()
    with trainer._pause():
        time.sleep(0.2)
    assert 10.2 <= trainer.log_clock[0] <= 10 + time.monotonic() - before and trainer.log_clock[1] == 8
    with trainer._pause():
        trainer.log_clock = (time.monotonic(), 16)  # a line is written
    assert trainer.log_clock[0] <= time.monotonic() and trainer.log_clock[1] == 16
    trainer.close()


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("user/my.set", "my.set"),
        (".", "v1.0 of mine"),
        ("./sub/..", "v1.0 of mine"),
        ("*.parquet", "v1.0 of mine"),
        ("sub/**/*.parquet", "sub"),
        ("faces.zip", "faces"),
    ],
)
def test_a_run_is_called_like_its_pictures(tmp_path, monkeypatch, dataset, name):
    folder = tmp_path / "v1.0 of mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "faces.zip").write_bytes(b"")
    monkeypatch.chdir(folder)
    assert folder_of(TrainConfig(dataset=dataset)) == Path("runs", name)


TWO = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--quiet")


def start_held(config: TrainConfig) -> None:
    """Begin a run with a checkpoint at 0 pictures in which spectral norm has found its vectors to the last digit."""
    trainer = Trainer(config)
    networks, optimizers = trainer._parts()
    with torch.no_grad():
        for module in (m for network in networks.values() for m in network.modules()):
            if is_parametrized(module):
                for _ in range(1000):
                    module.train().weight  # noqa: B018 — each time it is computed is one power iteration
    save_checkpoint(trainer.folder / "checkpoints", trainer.state, networks, optimizers, {}, None, keep=1)
    trainer.close()


def test_two_processes_find_the_gradients_of_one_that_accumulates_two_halves(tiny, start):
    """What is compared: Adam's moments, which are means of gradients, after 2 steps of both networks.

    The one process is told to accumulate, because batch norm then sees 4 pictures at a time on either side. Two things
    would still tell them apart, so the weights are held still and the vectors of spectral norm, which iterate once per
    forward pass, begin converged: D's step comes between the halves of the one process's step for G, and between the
    forward passes of the two. What is left is rounding, 1e-6 of a gradient's norm, and now and then a unit of the
    frozen features that rounding puts on the other side of its kink, which was seen to change it by 1e-3 in plain
    arithmetic; the fast forms round more often, so they are off.
    """
    held = {"learning_rate": 1e-12, "max_steps": 2, "fast": False}
    for name, accumulate in (("one", 2), ("two", 1)):
        start_held(tiny(name, accumulate=accumulate, **held))
    one = train(tiny("one", accumulate=2, **held), resume=True)
    two = tiny("two").output_dir
    for steps in ("1", "2"):  # resumed between the steps
        process = start("--resume", two, "--max-steps", steps, launcher=TWO)
        output = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0, output
    ours, theirs = newest(one), newest(two)
    assert "Continuing" in output
    assert ours.keys() == theirs.keys()
    moments = [name for name in ours if name.endswith(("exp_avg", "exp_avg_sq"))]
    assert len(moments) > 100
    apart = {name: float((theirs[name] - ours[name]).norm() / ours[name].norm()) for name in moments}
    assert max(apart.values()) < 0.01, sorted(apart.items(), key=lambda item: item[1])[-5:]
    assert sorted(apart.values())[len(apart) // 4] < 1e-4


def test_two_processes_choose_one_precision_and_are_one_run(tmp_path, cache, pictures, start):
    folder = tmp_path / "run"
    automatic = ["--mixed-precision", "auto", "--recipe", "projected", "--max-steps", "6"]
    automatic += ["--size", "64", "--grow-from", "32"]  # grows after the fourth step
    process = start(
        "--dataset", pictures, "--cache-dir", cache, *TINY, *automatic, "--output-dir", str(folder), launcher=TWO
    )
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert output.count("More pictures:") == 1
    assert json.loads((folder / "train_config.json").read_text())["mixed_precision"] in ("no", "bf16")
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["images"] == 48
    assert output.count("pictures grow to 64x64") == 1 and fastgan.from_pretrained(folder).config.level == 64
    # Each remembers the real pictures of both.
    memory = load_file(checkpoints_in(folder / "checkpoints")[-1] / "memory.safetensors")
    assert {len(view) for view in memory.values()} == {16} and memory["real.0"].unique(dim=0).shape[0] == 16


def test_two_processes_say_once_what_is_wrong(tiny, cache, pictures, start):
    folder = train(tiny(max_steps=1))
    process = start("--dataset", pictures, *TINY, "--output-dir", str(folder), launcher=TWO)
    output = process.communicate(timeout=PATIENCE)[0]
    assert output.count("holds a run already") == 1
    assert process.returncode == 1 and "Traceback" not in output


def test_a_scale_that_grows_reaches_both_networks_between_batches(tiny):
    """Scaling by powers of two is exact: weights are those of a run without it, unless parts of one batch differ."""
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)):
        trainer = Trainer(tiny(accumulate=2))
        trainer.accelerator.scaler = scaler
        batches = trainer._batches()
        for _ in range(3):
            trainer.step(batches)
        weights.append({name: t.clone() for n in trainer._parts()[0].values() for name, t in n.state_dict().items()})
        trainer.close()
    assert scaler.get_scale() == 16
    assert_equal(*weights)


def test_a_polite_kill_of_processes_that_stream_saves(tiny, cache, pictures, start):
    run = Path(tiny().output_dir)
    flags = ["--streaming", "--max-minutes", "5", "--output-dir", str(run)]
    process = start("--dataset", pictures, "--cache-dir", cache, *TINY, *flags, launcher=TWO)
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)  # as launchers and job schedulers send it
    output = process.communicate(timeout=PATIENCE)[0]
    assert f"--resume {run}" in output and "DataLoader" not in output, output
    assert len(checkpoints_in(run / "checkpoints")) == 1


def test_processes_that_accelerate_does_not_see_are_refused(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does, which on CPUs tells accelerate nothing more
    with pytest.raises(UserError, match="started as 2 processes.* needs ACCELERATE_USE_CPU=true"):
        Trainer(tiny())


def test_the_discriminator_holds_no_gradient_after_the_generators_step(tiny):
    trainer = Trainer(tiny())
    trainer.train_on(next(trainer._batches()))
    assert all(parameter.grad is None for parameter in trainer.players.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in trainer.players.discriminator.parameters())
    trainer.close()


class Waits(TorchDispatchMode):
    """Counts the operations for which a device would have to be waited for."""

    operations = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in self.operations
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize(("recipe", "waits"), [("projected", 0), ("paper", 1)])
def test_a_step_never_waits_for_the_device(tiny, recipe, waits):
    trainer = Trainer(tiny(recipe=recipe, batch_size=8))
    real = next(trainer._batches())
    with Waits() as guard:
        trainer.train_on(real)
    trainer.close()
    assert guard.count == waits  # the paper's recipe draws the number of a quadrant, on the CPU whatever the device


def test_frozen_puts_back_the_flags_it_found():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(RuntimeError), frozen(network) as judge:
        assert not any(parameter.requires_grad for parameter in judge.parameters())
        raise RuntimeError
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, True, False, False]


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoints(tiny):
    train(tiny(max_steps=2))
    config = tiny(max_steps=8)
    trainer = Trainer(config, resume=True)
    with torch.no_grad():
        next(trainer.players.generator.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no longer a number"):
        trainer.run()
    trainer.close()
    assert [path.name for path in checkpoints_in(Path(config.output_dir) / "checkpoints")] == ["checkpoint-0000000016"]
    assert all(tensor.isfinite().all() for tensor in newest(config.output_dir).values())


def test_tensorboard_gets_figures_and_pictures(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(tiny(report_to="tensorboard"))
    events = EventAccumulator(str(folder / "fastgan")).Reload()
    assert "loss/d" in events.Tags()["scalars"]
    assert "samples" in events.Tags()["images"]


def test_trackio_gets_figures_and_pictures(tmp_path, cache, pictures, start):
    arguments = ["--dataset", pictures, "--cache-dir", cache, *TINY, "--max-steps", "1", "--report-to", "trackio"]
    process = start(*arguments, "--output-dir", str(tmp_path / "run"), TRACKIO_DIR=str(tmp_path / "trackio"))
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 1
    with sqlite3.connect(tmp_path / "trackio" / "fastgan.db") as database:
        logged = str(database.execute("select * from metrics").fetchall())
    assert "loss/d" in logged and "samples" in logged


def test_a_time_budget_ends_the_run_with_everything_saved(tiny):
    folder = train(tiny(max_steps=None, max_minutes=0.02))
    assert len(checkpoints_in(folder / "checkpoints")) == 1
    assert (folder / "model.safetensors").exists()


def refusal(capsys, *arguments: str) -> str:
    """The one line that train.py says, exit code 2 included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        from fastgan.cli import train_main

        assert train_main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_one_clear_line(capsys, tmp_path, cache, pictures):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "run")
    good = ["--dataset", pictures, "--cache-dir", cache, *TINY, "--output-dir", out]
    assert "no pictures" in refusal(capsys, "--dataset", str(empty), "--output-dir", out)
    assert "no such file or folder" in refusal(capsys, "--dataset", str(tmp_path / "nothing"), "--output-dir", out)
    assert "power of two" in refusal(capsys, *good, "--size", "100")
    assert "--batch-size 300" in refusal(capsys, *good, "--batch-size", "300")
    assert "--accumulate" in refusal(capsys, *good, "--accumulate", "5")
    assert "holds the pictures" in refusal(capsys, "--dataset", pictures, "--output-dir", pictures)
    assert "--mixed-precision fp16" in refusal(capsys, *good, "--mixed-precision", "fp16")
    assert str(tmp_path / "file") in refusal(capsys, *good, "--output-dir", str(tmp_path / "file" / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        said = refusal(capsys, *good, "--cache-dir", str(tmp_path / "cache"))
        assert said.endswith("name a folder on a larger disk, or use --streaming")
    assert not Path(out).exists()


def test_resuming_refuses_what_does_not_fit(capsys, tiny, tmp_path, pictures):
    folder = train(tiny(max_steps=2))
    assert "--ngf 4" in refusal(capsys, "--resume", str(folder), "--ngf", "8")
    assert "holds a run already" in refusal(
        capsys, "--dataset", pictures, *TINY, "--output-dir", str(folder), "--cache-dir", str(tmp_path)
    )
    assert "no such file" in refusal(capsys, "--resume", str(tmp_path / "nowhere"))
    weights = checkpoints_in(folder / "checkpoints")[-1] / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "generator.safetensors" in refusal(capsys, "--resume", str(folder), "--max-steps", "4")
    shutil.copytree(weights.parent, weights.parent.with_name("checkpoint-0000000008"))
    said = refusal(capsys, "--resume", str(folder), "--max-steps", "4")
    assert said.endswith(f"To go on from checkpoint-0000000008 instead, delete {weights.parent}")
    assert "leave out --output-dir" in refusal(capsys, "--resume", str(folder), "--output-dir", str(tmp_path / "new"))


NO_ROOM = """
import resource, sys
from fastgan.cli import train_main
resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, resource.RLIM_INFINITY))
sys.exit(train_main(sys.argv[1:]))
"""


def test_a_size_that_memory_cannot_hold_is_said_before_the_small_ones(tmp_path, cache, pictures):
    run = tmp_path / "run"
    settings = ["--dataset", pictures, "--cache-dir", cache, "--size", "1024", "--mixed-precision", "no"]
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, *settings, "--output-dir", str(run)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert f"error: {run}: out of memory" in done.stderr and "Traceback" not in done.stderr
    assert not run.exists()


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
from fastgan.cli import train_main
sys.exit(train_main(sys.argv[1:]))
"""


def test_a_disk_that_cannot_take_a_checkpoint_is_said_and_leaves_no_half_file(tmp_path, cache, pictures):
    run = tmp_path / "run"
    train(
        TrainConfig(
            dataset=pictures,
            cache_dir=cache,
            size="32",
            max_steps=1,
            ngf=4,
            ndf=4,
            z_dim=16,
            eval_images=0,
            output_dir=str(tmp_path / "fills the cache"),
        )
    )
    arguments = ["--dataset", pictures, "--cache-dir", cache, *TINY, "--ngf", "32", "--max-steps", "2"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *arguments, "--output-dir", str(run)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not (run / "model.safetensors").exists()
    assert not list(run.rglob(".*"))


def test_a_grid_that_can_not_be_written_is_said_and_ends_no_run(tiny, capsys):
    config = tiny(sample_every="0.008kimg")
    folder = Path(config.output_dir)
    folder.mkdir()
    (folder / "samples").write_text("in the way")
    train(config)
    assert "could not be written" in (said := capsys.readouterr().err) and "The run goes on" in said
    assert fastgan.from_pretrained(folder).config.level == 32 and checkpoints_in(folder / "checkpoints")


def test_a_run_may_be_started_from_a_thread(tiny):
    with ThreadPoolExecutor(1) as pool:
        folder = pool.submit(train, tiny(max_steps=1)).result()
    assert (folder / "model.safetensors").is_file()


def test_the_checkpoint_of_the_best_model_stays(tiny):
    folder = train(tiny(eval_images=8, eval_every="0.008kimg", keep_checkpoints=1, max_steps=6))
    kept = [read_state(path)[0].images for path in checkpoints_in(folder / "checkpoints")]
    assert kept == sorted({best_of_run(folder).images, 48})


def test_a_run_that_goes_on_keeps_others_out_of_its_folder(tiny):
    first = Trainer(tiny())
    try:
        with pytest.raises(UserError, match="a run is going on in it; wait for it, or choose another --output-dir"):
            Trainer(tiny(seed=1))
    finally:
        first.close()
    folder = train(tiny(seed=1))
    assert not (folder / ".lock").exists()
    train(tiny(seed=1, max_steps=5), resume=True)


def test_what_a_run_draws_and_measures_on_the_way_does_not_change_how_it_grows(tiny):
    quiet = train(tiny("quiet", max_steps=8, **GROWING, sample_every="never"))
    often = {"eval_images": 8, "eval_every": "0.008kimg", "sample_every": "0.008kimg"}
    busy = train(tiny("busy", max_steps=8, **GROWING, **often))
    assert_equal(newest(quiet), newest(busy))


def test_a_run_goes_on_where_its_pictures_have_moved(tiny, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "before")
    folder = train(tiny(dataset=str(tmp_path / "before")))
    (tmp_path / "before").rename(tmp_path / "after")
    flags = ["--resume", str(folder), "--dataset", str(tmp_path / "after"), "--max-steps", "5", "--accumulate", "2"]
    assert train_main(flags) == 0
    assert read_state(checkpoints_in(folder / "checkpoints")[-1])[0].images == 40


def test_a_log_that_can_not_be_written_and_names_that_are_no_text_are_borne(tmp_path):
    files = RunFolder(tmp_path, resumes=False, writes=True)
    files.write_skipped([("caf\udce9\t1.png", "damaged:\nat its end")])
    assert (tmp_path / "skipped.tsv").read_text() == "caf\\udce9 1.png\tdamaged: at its end\n"
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="log.jsonl: could not be written"):
        files.record({"images": 8})
