import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def report(script: str, *flags: str) -> dict:
    """What a benchmark prints, in the shortest of rounds."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--json", "--rounds", "2", "--seconds", "0.01", *flags],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_settings_of_sampling_are_timed_in_turn():
    found = report("sampling.py", "--size", "32", "--ngf", "4", "--compare", "--batch-size 1", "--batch-size 4")
    assert len(found["ratios"]) == 2 and min(found["ratios"]) > 0
    one, four = found["reports"]
    assert one["what"] != four["what"]
    # Together they share the arithmetic on weights alone.
    assert 0.95 * one["flop_per_image"] < four["flop_per_image"] <= one["flop_per_image"]
    assert {"latents and noise", "network", "to bytes"} == set(one["parts"])
    assert 0 < one["share_of_peak"]["fp32"] < 1


def test_sampling_with_onnxruntime_is_timed_beside_pytorch():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = report("sampling.py", "--size", "32", "--ngf", "4", "--batch-size", "2", "--compare", "", " --onnx")
    ours, theirs = found["reports"]
    assert theirs["what"] == f"{ours['what']}, onnxruntime"
    assert theirs["flop_per_image"] == ours["flop_per_image"]
    assert theirs["images_per_second"] > 0 and theirs["facts"]["megabytes of the file"] > 0.01


def test_a_training_step_is_taken_apart():
    tiny = ["--size", "32", "--ngf", "4", "--ndf", "4", "--batch-size", "4", "--accumulate", "2", "--recipe", "paper"]
    (found,) = report("train_step.py", *tiny)["reports"]
    assert {"generator forward 1", "distance 3", "backward 3", "moving average 1"} <= set(found["parts"])
    assert min(found["parts"].values()) >= 0
    assert found["images_per_second"] > 0 and found["peak_memory"] > 1e8
