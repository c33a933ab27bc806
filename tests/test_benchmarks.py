import json
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.commands import PATIENCE, ROOT

TINY = ["--size", "32", "--ngf", "4", "--ndf", "4", "--batch-size", "4", "--recipe", "paper"]
SHORTEST = ["--rounds", "2", "--seconds", "0.01"]


def printed(script: str, *flags: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *flags],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def report(script: str, *flags: str) -> dict:
    """The same as JSON, in the shortest of rounds."""
    return json.loads(printed(script, "--json", *SHORTEST, *flags))


def test_two_settings_of_sampling_are_timed_in_turn():
    found = report("sampling.py", "--size", "32", "--ngf", "4", "--compare", "--batch-size 1", "--batch-size 4")
    assert len(found["ratios"]) == 2 and min(found["ratios"]) > 0
    one, four = found["reports"]
    assert one["what"] != four["what"]
    # Together they share the arithmetic on weights alone.
    assert 0.95 * one["flop_per_image"] < four["flop_per_image"] <= one["flop_per_image"]
    assert {"latents and noise", "network", "to bytes"} == set(one["parts"])
    assert 0 < one["share_of_peak"]["fp32"] < 1


def test_sampling_without_speed_ups_does_more_arithmetic():
    found = report("sampling.py", "--size", "64", "--ngf", "8", "--batch-size", "1", "--compare", "", " --no-fast")
    quick, plain = found["reports"]
    assert plain["flop_per_image"] > 1.2 * quick["flop_per_image"]


def test_what_was_found_is_printed_for_people():
    said = printed("sampling.py", "--size", "32", "--ngf", "4", *SHORTEST, "--compare", "--images 1", "--images 12")
    assert "A: sampling, 32x32, ngf 4, 1 at once" in said and "B: sampling, 32x32, ngf 4, 12 at once" in said
    assert said.count("GFLOP per image") == 2 and "seconds to import fastgan, without torch" in said
    assert re.search(r"B / A: [\d.]+ \(median of 2 pairs of rounds, [\d.]+ to [\d.]+\)\n$", said)


def test_sampling_with_onnxruntime_is_timed_beside_pytorch():
    found = report("sampling.py", "--size", "32", "--ngf", "4", "--batch-size", "2", "--compare", "", " --onnx")
    ours, theirs = found["reports"]
    assert theirs["what"] == f"{ours['what']}, onnxruntime"
    assert theirs["flop_per_image"] == ours["flop_per_image"]
    assert theirs["images_per_second"] > 0 and theirs["facts"]["megabytes of the file"] > 0.01


def test_a_training_step_is_taken_apart():
    (found,) = report("train_step.py", *TINY, "--accumulate", "2")["reports"]
    assert {"next batch", "generator forward 1", "distance 2", "backward 3", "moving average 1"} <= set(found["parts"])
    assert min(found["parts"].values()) >= 0
    assert found["images_per_second"] > 0 and found["peak_memory"] > 1e8
    assert 0 < found["convolutions"]["share_of_time"] < 1 and found["convolutions"]["rate"] > 1e6


def test_waiting_for_streamed_pictures_is_measured():
    said = printed("feed.py", "--megapixels", "0.01", "--jpegs", "12", "--seconds", "0.5", *TINY)
    found = re.search(r"([\d.]+) images/s.*: ([\d.]+)% of the time.*, ([\d.]+) ms at most", said, re.S)
    rate, share, longest = map(float, found.groups())
    assert rate > 0 and 0 < share < 100 and longest > 0


def test_processes_are_timed_in_turn():
    said = printed("processes.py", "--minutes", "0.05", "--rounds", "1", *TINY)
    one, shared, more = said.splitlines()
    alone = float(re.search(r"batch 4: ([\d.]+) images/s", one)[1])
    for line, batch in ((shared, 4), (more, 8)):
        rate, ratio = map(float, re.search(rf"batch of {batch}: ([\d.]+) images/s, ratio ([\d.]+)", line).groups())
        assert ratio == pytest.approx(rate / alone, abs=0.02)


def test_recipes_are_compared_and_what_was_found_is_printed_again(tmp_path):
    pictures = tmp_path / "faces"
    pictures.mkdir()
    for path in sorted((ROOT / "examples" / "emoji_faces").glob("*.webp"))[:12]:
        (pictures / path.name).symlink_to(path)
    command = ["recipes.py", "--datasets", str(pictures), "--size", "32", "--minutes", "0.02", "--seeds", "0,1"]
    command += ["--settings", " --ngf 4", "--out", str(tmp_path / "found")]
    first = printed(*command)
    heads, _, row = (line.strip("| ").split(" | ") for line in first.splitlines()[:3])
    cells = dict(zip(heads, row, strict=True))
    assert cells["pictures"] == "faces" and cells["setting"] == "`--ngf 4`"
    assert float(cells["images/s"]) > 0 and cells["KID ×1000, lite1"].count(",") == 1  # the mean, then each seed's own
    assert 0 < float(cells["diversity, lite2"]) < 2
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").rglob("result.json")}
    assert len(written) == 2
    one = Image.open(next(iter(written)).with_name("grid.png"))
    both = Image.open(tmp_path / "found" / "grids-32-0.02min.png")  # side by side, each below its name
    assert both.width > 2 * one.width and both.height > one.height
    assert printed(*command) == first
    assert written == {path: path.stat().st_mtime_ns for path in written}
