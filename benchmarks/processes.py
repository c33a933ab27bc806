"""How much faster several processes train on a CPU than one with a single thread.

    python benchmarks/processes.py --size 256 --recipe paper
    python benchmarks/processes.py --processes 4 --minutes 3 --size 128

Every process has one thread. Whole runs follow each other in turn, one process and several, and what is compared is
their rate once they have started. Flags that it does not know are those of train.py.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from train_step import PICTURES

from fastgan.watch import read_log

ROOT = Path(__file__).parents[1]


def rate(processes: int, minutes: float, flags: list[str]) -> float:
    """Pictures per second of a run, from its log; the first line, which has the start in it, is left out."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = ["--dataset", str(PICTURES), "--eval-images", "0", "--grow-from", "0", "--sample-every", "never"]
        settings += ["--max-minutes", str(minutes), "--log-every", f"{minutes / 8}min", "--output-dir", str(run)]
        command = [sys.executable, *(launcher if processes > 1 else []), "train.py", *settings, *flags]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
        if code:
            raise SystemExit(code)  # it has said why
        rates = [line["images_per_second"] for line in read_log(run / "log.jsonl") if "images_per_second" in line]
    return median(rates[1:] or rates)


def main() -> None:
    """Time both in turn, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many are held against one [2]")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each run [1]")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each [3]")
    options, flags = parser.parse_known_args()
    pairs = []
    for number in range(options.rounds):
        order = (1, options.processes) if number % 2 == 0 else (options.processes, 1)
        rates = {processes: rate(processes, options.minutes, flags) for processes in order}
        pairs.append((rates[1], rates[options.processes]))
    one, several = (median(part) for part in zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    print(f"one process with one thread: {one:.2f} images/s (median of {len(pairs)} runs)")
    print(f"{options.processes} processes with one thread each: {several:.2f} images/s")
    print(f"ratio: {median(ratios):.2f} (median of {len(pairs)} pairs, {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
