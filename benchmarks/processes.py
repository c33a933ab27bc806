"""How much faster several processes train on a CPU than one with a single thread.

    python benchmarks/processes.py --size 256 --recipe paper
    python benchmarks/processes.py --processes 4 --minutes 3 --size 128

Every process has one thread. Whole runs follow each other in turn, and what is compared is their rate once they have
started: one process, several that share its batch, and several with a batch of that size each. Flags that it does not
know are those of train.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from train_step import PICTURES

from fastgan.cli import resolve, run
from fastgan.watch import read_log

ROOT = Path(__file__).parents[1]


def rate(processes: int, minutes: float, flags: list[str]) -> float:
    """Pictures per second of a run, from its log; the first line, which has the start in it, is left out."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        settings = ["--dataset", str(PICTURES), "--eval-images", "0", "--grow-from", "0", "--sample-every", "never"]
        settings += ["--max-minutes", str(minutes), "--log-every", f"{minutes / 8}min", "--output-dir", str(output)]
        command = [sys.executable, *(launcher if processes > 1 else []), "train.py", *settings, *flags]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        if code:
            raise SystemExit(code)  # it has said why
        rates = [line["images_per_second"] for line in read_log(output / "log.jsonl") if "images_per_second" in line]
    return median(rates[1:] or rates)


def main() -> None:
    """Time all in turn, and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many are held against one [2]")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each run [1]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each [3]")
    options, flags = parser.parse_known_args()
    count, batch = options.processes, resolve(["--dataset", str(PICTURES), *flags])[0].batch_size
    settings = {
        f"one process with one thread, batch {batch}": (1, batch),
        f"{count} processes that share a batch of {batch}": (count, batch),
        f"{count} processes that share a batch of {count * batch}": (count, count * batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(options.rounds):
        for name in list(settings) if number % 2 == 0 else reversed(settings):
            processes, together = settings[name]
            rates[name].append(rate(processes, options.minutes, [*flags, "--batch-size", str(together)]))
    one, *several = rates.items()
    print(f"{one[0]}: {median(one[1]):.2f} images/s (median of {options.rounds} runs)")
    for name, found in several:
        ratios = [b / a for a, b in zip(one[1], found, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name}: {median(found):.2f} images/s, ratio {median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    sys.exit(run(main))
