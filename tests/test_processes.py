import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from safetensors.torch import load_file
from torch.nn.utils.parametrize import is_parametrized

import fastgan
from fastgan import TrainConfig, UserError
from fastgan.checkpoints import checkpoints_in, save_checkpoint
from fastgan.trainer import Trainer, train
from tests.commands import PATIENCE, wait_for
from tests.runs import TINY, newest


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


TWO = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--quiet")


def start_held(config: TrainConfig) -> None:
    """Begin a run with a checkpoint at 0 pictures in which spectral norm has found its vectors to the last digit."""
    trainer = Trainer(config)
    networks, optimizers = trainer.learners.parts()
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


def test_two_processes_choose_one_precision_and_are_one_run(tmp_path, cache_dir, pictures, start):
    folder = tmp_path / "run"
    automatic = ["--mixed-precision", "auto", "--recipe", "projected", "--max-steps", "6"]
    automatic += ["--size", "64", "--grow-from", "32"]  # grows after the fourth step
    process = start(
        "--dataset", pictures, "--cache-dir", cache_dir, *TINY, *automatic, "--output-dir", str(folder), launcher=TWO
    )
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert output.count("More pictures:") == 1
    assert json.loads((folder / "train_config.json").read_text())["mixed_precision"] in ("no", "bf16")
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["images"] == 48
    assert output.count("pictures grow to 64x64") == 1 and fastgan.from_pretrained(folder).config.level == 64
    # Each remembers the real pictures of both.
    memory = load_file(checkpoints_in(folder / "checkpoints")[-1] / "memory.safetensors")
    kept = [view for name, view in memory.items() if name.startswith("real.")]
    assert {len(view) for view in kept} == {16} and kept[0].unique(dim=0).shape[0] == 16
    assert len(memory["told.0"]) == 48  # those of before it grew, too


def test_two_processes_find_anchors_of_real_pictures(tmp_path, cache_dir, pictures, start):
    folder = tmp_path / "run"
    flags = ["--recipe", "projected", "--batch-size", "26", "--max-steps", "11", "--output-dir", str(folder)]
    process = start("--dataset", pictures, "--cache-dir", cache_dir, *TINY, *flags, launcher=TWO)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    memory = load_file(checkpoints_in(folder / "checkpoints")[-1] / "memory.safetensors")
    assert len(memory["real.0"]) == 256 and memory["anchors.axes"].shape[1] > 4
    assert len(memory["anchors.seen"]) == 282  # of both
    assert torch.equal(fastgan.from_pretrained(folder).anchors, memory["anchors.seen"])
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["loss/anchored"] > 0


def test_two_processes_say_once_what_is_wrong(tiny, cache_dir, pictures, start):
    folder = train(tiny(max_steps=1))
    process = start("--dataset", pictures, *TINY, "--output-dir", str(folder), launcher=TWO)
    output = process.communicate(timeout=PATIENCE)[0]
    assert output.count("holds a run already") == 1
    assert process.returncode == 1 and "Traceback" not in output


def test_a_polite_kill_of_processes_that_stream_saves(tiny, cache_dir, pictures, start):
    run = Path(tiny().output_dir)
    flags = ["--streaming", "--max-minutes", "5", "--output-dir", str(run)]
    process = start("--dataset", pictures, "--cache-dir", cache_dir, *TINY, *flags, launcher=TWO)
    wait_for(lambda: (run / "log.jsonl").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)  # as launchers and job schedulers send it
    output = process.communicate(timeout=PATIENCE)[0]
    assert f"--resume {run}" in output and "DataLoader" not in output, output
    assert len(checkpoints_in(run / "checkpoints")) == 1


def test_processes_that_accelerate_does_not_see_are_refused(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does, which on CPUs tells accelerate nothing more
    with pytest.raises(UserError, match="started as 2 processes.* needs ACCELERATE_USE_CPU=true"):
        Trainer(tiny())
