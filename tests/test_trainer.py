import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fastgan
from fastgan import TrainConfig, UserError
from fastgan.checkpoints import best_of_run, checkpoints_in, read_state
from fastgan.data import load_pictures
from fastgan.evaluation import evaluate
from fastgan.trainer import Stop, Trainer, train
from tests.commands import PATIENCE, ROOT
from tests.runs import GROWING, TINY, assert_equal, newest, refusal


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


def test_evaluations_are_logged_with_what_they_were_measured_with_and_the_best_is_kept(tiny, pictures, cache_dir):
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
    settings = load_pictures(pictures, size=(32, 32), cache_dir=Path(cache_dir), progress=False)
    again = evaluate(
        fastgan.from_pretrained(folder / "best"),
        settings,
        ["efficientnet-lite1"],
        "0-7",
        cache_dir=Path(cache_dir),
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


def test_a_run_is_full_size_at_its_end_however_short(tiny):
    by_time = tiny("by time", max_steps=None, max_minutes=0.05, **GROWING)
    assert fastgan.from_pretrained(train(by_time)).config.level == 128
    assert fastgan.from_pretrained(train(tiny("one step", max_steps=1, **GROWING))).config.level == 128


def test_saving_and_sampling_on_the_way_change_nothing(tiny):
    quiet = train(tiny("quiet"))
    often = "0.008kimg"
    busy = train(tiny("busy", sample_every=often, checkpoint_every=often, eval_every=often, eval_images=8))
    assert_equal(newest(quiet), newest(busy))


@pytest.mark.parametrize("end", ["length", "Ctrl-C"])
def test_a_run_that_diverged_in_its_last_steps_is_no_success(tiny, end):
    trainer = Trainer(tiny(max_steps=2, log_every="never"))
    with torch.no_grad():
        next(trainer.learners.players.generator.parameters()).fill_(math.nan)
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
                next(trainer.learners.players.discriminator.parameters()).fill_(math.nan)
        return done

    trainer.step = step_and_break
    with pytest.raises(UserError, match="the loss is no longer a number"):
        trainer.run()
    assert not (trainer.folder / "model.safetensors").exists()
    trainer.close()


def test_what_cannot_be_measured_for_want_of_room_is_said_and_loses_nothing(tiny, tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "features").write_text("in the way")
    folder = train(tiny(eval_images=8, eval_every="0.016kimg", cache_dir=str(tmp_path / "cache")))
    assert capsys.readouterr().err.count("Not measured at 0.0 kimg: feature cache: can't write to") == 2
    assert fastgan.from_pretrained(folder).config.level == 32 and not (folder / "best").exists()


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


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoints(tiny):
    train(tiny(max_steps=2))
    config = tiny(max_steps=8)
    trainer = Trainer(config, resume=True)
    with torch.no_grad():
        next(trainer.learners.players.generator.parameters()).fill_(float("nan"))
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


def test_trackio_gets_figures_and_pictures(tmp_path, cache_dir, pictures, start):
    arguments = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--max-steps", "1", "--report-to", "trackio"]
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


def test_bad_input_is_one_clear_line(capsys, tmp_path, cache_dir, pictures):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "run")
    good = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--output-dir", out]
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


NO_ROOM = """
import resource, sys
from fastgan.cli import train_main
resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, resource.RLIM_INFINITY))
sys.exit(train_main(sys.argv[1:]))
"""


def test_a_size_that_memory_cannot_hold_is_said_before_the_small_ones(tmp_path, cache_dir, pictures):
    run = tmp_path / "run"
    settings = ["--dataset", pictures, "--cache-dir", cache_dir, "--size", "1024", "--mixed-precision", "no"]
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


def test_a_disk_that_cannot_take_a_checkpoint_is_said_and_leaves_no_half_file(tmp_path, cache_dir, pictures):
    run = tmp_path / "run"
    train(
        TrainConfig(
            dataset=pictures,
            cache_dir=cache_dir,
            size="32",
            max_steps=1,
            ngf=4,
            ndf=4,
            z_dim=16,
            eval_images=0,
            output_dir=str(tmp_path / "fills the cache"),
        )
    )
    arguments = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--ngf", "32", "--max-steps", "2"]
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


def test_a_run_that_gets_worse_says_so_once(tiny, capsys):
    measured = {"eval_images": 8, "eval_every": "0.008kimg", "checkpoint_every": "0.008kimg"}
    log = train(tiny(**measured, max_steps=3)) / "log.jsonl"
    kids = iter((-0.9, 0.5, 0.6))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "kid" in line:
            line.update(kid=next(kids), kid_std=0.01, near_share=0, distance_ratio=1)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "overfit" not in capsys.readouterr().err
    train(tiny(**measured, max_steps=5), resume=True)
    said = capsys.readouterr().err
    assert said.count("Training has begun to overfit: KID rose from -0.9000 to ") == 1
    assert "The best is at 0.0 kimg, kept in best/" in said


def test_the_checkpoint_of_the_best_model_stays(tiny):
    folder = train(tiny(eval_images=8, eval_every="0.008kimg", keep_checkpoints=1, max_steps=6))
    kept = [read_state(path)[0].images for path in checkpoints_in(folder / "checkpoints")]
    assert kept == sorted({best_of_run(folder).images, 48})


def test_what_a_run_draws_and_measures_on_the_way_does_not_change_how_it_grows(tiny):
    quiet = train(tiny("quiet", max_steps=8, **GROWING, sample_every="never"))
    often = {"eval_images": 8, "eval_every": "0.008kimg", "sample_every": "0.008kimg"}
    busy = train(tiny("busy", max_steps=8, **GROWING, **often))
    assert_equal(newest(quiet), newest(busy))
