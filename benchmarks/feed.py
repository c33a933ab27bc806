"""Whether pictures come as fast as they are learnt from: how long steps of training wait for their batches.

    python benchmarks/feed.py --size 256                                   # the sample pictures, in memory
    python benchmarks/feed.py --size 256 --megapixels 4                    # JPEGs as large, read while training
    python benchmarks/feed.py --size 256 --dataset user/pokemon --streaming

Flags that it does not know are those of train.py.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from common import Clock
from PIL import Image
from train_step import PICTURES, timed, trainer_for

from fastgan import fast
from fastgan.cli import run

WARM_UP = 5  # steps that are not counted


def write_jpegs(folder: Path, count: int, megapixels: float) -> None:
    """Square JPEGs of the sample pictures, enlarged, with the fine grain that photographs have."""
    side = round((megapixels * 1e6) ** 0.5)
    grain = Image.frombytes("L", (side, side), random.Random(0).randbytes(side * side)).convert("RGB")
    for number, path in zip(range(count), sorted(PICTURES.glob("*.webp")), strict=False):
        with Image.open(path) as picture:
            large = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        Image.blend(large, grain, 0.1).save(folder / f"{number:03d}.jpg", quality=90)


def measure(flags: list[str], seconds: float) -> None:
    """Train for so long, and print how much of it was spent waiting."""
    trainer = trainer_for(flags)
    clock = Clock(torch.device("cpu"))  # a GPU goes on meanwhile
    batches, waits = timed(trainer.feed.batches(0), clock), []
    with fast.use(trainer.config.fast):
        for _ in range(WARM_UP):
            trainer.step(batches)
        start, before = time.perf_counter(), trainer.state.images
        while time.perf_counter() - start < seconds:
            clock.seconds.clear()
            trainer.step(batches)
            waits.extend(clock.seconds.values())
    spent, images = time.perf_counter() - start, trainer.state.images - before
    trainer.close()
    print(f"{images / spent:.2f} images/s over {spent:.0f} s")
    print(f"  waiting for pictures: {sum(waits) / spent:.2%} of the time")
    print(f"  a step: {1000 * sum(waits) / len(waits):.1f} ms on average, {1000 * max(waits):.1f} ms at most")


def main() -> None:
    """Prepare the pictures and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, help="stream JPEGs of this size")
    parser.add_argument("--jpegs", type=int, default=64, help="how many of them are made [64]")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is measured [60]")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.megapixels:
            write_jpegs(Path(folder), options.jpegs, options.megapixels)
            flags = ["--dataset", folder, "--streaming", *flags]
        measure(flags, options.seconds)


if __name__ == "__main__":
    raise SystemExit(run(main))
