import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fastgan
from fastgan import UserError
from fastgan.checkpoints import Best, best_of_run, checkpoints_in, read_state
from fastgan.cli import resolve, train_main
from fastgan.evaluation import training_settings
from fastgan.launch import HANG_UP
from fastgan.trainer import train
from fastgan.watch import best_of, evaluations, read_log
from tests.commands import PATIENCE, ROOT, wait_for
from tests.runs import GROWING, TINY, assert_equal, newest, refusal

needs_terminals = pytest.mark.skipif(not hasattr(os, "forkpty"), reason="there are no such terminals there")


@pytest.mark.parametrize("recipe", ["paper", "projected"])
def test_a_resumed_run_is_the_run_that_never_stopped_to_the_last_bit(tiny, recipe):
    whole = train(tiny("whole", recipe=recipe))
    train(tiny("halves", recipe=recipe, max_steps=2))
    halves = train(tiny("halves", recipe=recipe), resume=True)
    assert_equal(newest(whole), newest(halves))
    assert (whole / "model.safetensors").read_bytes() == (halves / "model.safetensors").read_bytes()
    assert (whole / "samples.png").read_bytes() == (halves / "samples.png").read_bytes()


def test_a_growing_run_killed_at_any_size_resumes_to_the_same_weights(tiny):
    config = tiny(**{**GROWING, "size": "64"}, max_steps=6, checkpoint_every="0.008kimg", keep_checkpoints=6)
    folder = train(config)
    whole, checkpoints = newest(folder), checkpoints_in(folder / "checkpoints")
    for last in (5, 4, 1):  # at full size, just before it, on the way
        for checkpoint in checkpoints[last:]:
            shutil.rmtree(checkpoint)
        train(config, resume=True)
        assert_equal(whole, newest(folder))


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


def test_a_run_killed_at_any_moment_resumes_to_the_same_weights(tmp_path, cache_dir, pictures, start):
    """All runs are processes of their own with one thread: a sum over other numbers of threads rounds differently."""
    settings = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--batch-size", "2", "--max-steps", "10"]
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
def test_what_ends_a_run_from_outside_saves_and_says_how_to_go_on(tmp_path, cache_dir, pictures, start, number):
    run = tmp_path / "run"
    limit = ("--max-minutes", "5")
    process = start("--dataset", pictures, "--cache-dir", cache_dir, *TINY, *limit, "--output-dir", str(run))
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130
    assert f"--resume {run}" in output and "Traceback" not in output
    assert fastgan.from_pretrained(run).config.level == 32
    assert len(checkpoints_in(run / "checkpoints")) == 1


def test_a_stream_that_breaks_ends_the_run_saved(tmp_path, pictures, start):
    shutil.copytree(pictures, tmp_path / "set")
    run = tmp_path / "run"
    limit = ("--max-minutes", "5", "--streaming")
    process = start("--dataset", str(tmp_path / "set"), *TINY, *limit, "--output-dir", str(run))
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    shutil.rmtree(tmp_path / "set")  # a disk that is unplugged
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 2 and "Traceback" not in output
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "none of its pictures can be used" in line and "Saved at" in line and f"--resume {run}" in line
    assert len(checkpoints_in(run / "checkpoints")) == 1


def test_a_run_whose_output_nobody_reads_any_more_saves_when_stopped(tmp_path, cache_dir, pictures, start):
    run = tmp_path / "run"
    limit = ("--max-minutes", "5")
    process = start("--dataset", pictures, "--cache-dir", cache_dir, *TINY, *limit, "--output-dir", str(run))
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    process.stdout.close()  # as of `| tee`, which Ctrl-C ends too
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert fastgan.from_pretrained(run).config.level == 32
    assert len(checkpoints_in(run / "checkpoints")) == 1


class InATerminal:
    """A run of train.py in a terminal of its own, once it has begun."""

    def __init__(self, run: Path, *flags: str, **environment: str):
        self.run, self.said, self.deadline = run, b"", time.monotonic() + PATIENCE
        self.pid, self.terminal = os.forkpty()
        if not self.pid:
            os.chdir(ROOT)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
            os.execve(sys.executable, [sys.executable, "train.py", *flags, "--output-dir", str(run)], environment)
        self.read_until(lambda: (run / "log.jsonl").exists())

    def read_until(self, done: Callable[[], bool]) -> None:
        """What nobody reads would fill the terminal, and stop the run."""
        while not done() and time.monotonic() < self.deadline:
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.said += os.read(self.terminal, 10_000)

    def check_saved(self) -> None:
        """Wait until it is complete."""
        while not (self.run / "report.html").exists() and time.monotonic() < self.deadline:
            time.sleep(0.1)
        assert len(checkpoints_in(self.run / "checkpoints")) == 1
        assert fastgan.from_pretrained(self.run).config.level == 32


@needs_terminals
def test_a_run_whose_terminal_closes_saves(tmp_path, cache_dir, pictures):
    flags = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--max-minutes", "5"]
    process = InATerminal(tmp_path / "run", *flags)
    os.close(process.terminal)
    process.check_saved()
    assert os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) == 130


@needs_terminals
def test_a_cell_of_a_notebook_that_is_stopped_saves_though_it_is_killed(tmp_path, cache_dir, pictures):
    flags = ["--dataset", pictures, "--cache-dir", cache_dir, *TINY, "--max-minutes", "5"]
    cell = InATerminal(tmp_path / "run", *flags, JPY_PARENT_PID="1")
    os.write(cell.terminal, b"\x03")
    cell.read_until(lambda: b"complete in a moment" in cell.said)
    time.sleep(0.5)
    os.kill(cell.pid, signal.SIGKILL)
    os.waitpid(cell.pid, 0)
    os.close(cell.terminal)
    cell.check_saved()


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


def test_a_run_from_before_a_setting_goes_on_as_it_was(tiny):
    folder = train(tiny(recipe="projected", max_steps=1))
    settings = json.loads((folder / "train_config.json").read_text())
    assert settings.pop("anchor_weight") == 8
    (folder / "train_config.json").write_text(json.dumps(settings))
    assert resolve(["--resume", str(folder), "--max-steps", "2"])[0].anchor_weight == 0
    assert training_settings(str(folder)).anchor_weight == 0


def test_a_finished_run_that_is_resumed_stays_as_it_is(tiny, capsys):
    config = tiny(eval_images=8)
    folder = train(config)
    before, log = newest(folder), (folder / "log.jsonl").read_text()
    train(config, resume=True)
    assert (folder / "log.jsonl").read_text() == log
    assert "is at its full length; a larger --max-steps makes it go on" in capsys.readouterr().err
    assert_equal(before, newest(folder))
    assert len(checkpoints_in(folder / "checkpoints")) == 1


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


def test_a_run_goes_on_where_its_pictures_have_moved(tiny, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "before")
    folder = train(tiny(dataset=str(tmp_path / "before")))
    (tmp_path / "before").rename(tmp_path / "after")
    flags = ["--resume", str(folder), "--dataset", str(tmp_path / "after"), "--max-steps", "5", "--accumulate", "2"]
    assert train_main(flags) == 0
    assert read_state(checkpoints_in(folder / "checkpoints")[-1])[0].images == 40


def test_which_part_of_a_dataset_a_run_had_does_not_bind_it_to_that_dataset(tiny, pictures, tmp_path, capsys):
    folder = train(tiny(max_steps=1))
    settings = json.loads((folder / "train_config.json").read_text())
    of_the_hub = {"dataset": "user/pokemon", "dataset_config": "big", "revision": "v1", "image_column": "photo"}
    (folder / "train_config.json").write_text(json.dumps(settings | of_the_hub))
    moved = resolve(["--resume", str(folder), "--dataset", pictures])[0]
    assert (moved.dataset_config, moved.revision, moved.image_column) == (None, None, None)
    assert resolve(["--resume", str(folder), "--dataset", "user/copy", "--revision", "v2"])[0].revision == "v2"
    assert resolve(["--resume", str(folder), "--max-steps", "2"])[0].revision == "v1"
    assert "that run has --revision v1" in refusal(capsys, "--resume", str(folder), "--revision", "v2")
    assert "give --push-to-hub too" in refusal(capsys, "--resume", str(folder), "--hub-public")
