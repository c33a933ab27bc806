"""Starting from a model against starting from nothing, for the same time, on pictures that neither has seen before.

    python benchmarks/fine_tune.py --size 64 --base-minutes 10 --minutes 3

The set is cut in two by what the pictures show: an emoji in all its skin tones is on one side. A model is trained on
the first half; then two runs get the second half for the same time, one from that model and one from nothing. Both are
measured against the second half under networks that taught neither. Other flags are those of train.py, for all runs.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from fastgan import sampling
from fastgan.cli import run as tell
from fastgan.config import parse_size
from fastgan.data import load_pictures
from fastgan.errors import UserError
from fastgan.evaluation import evaluate
from fastgan.files import write_file
from fastgan.hub import from_pretrained
from fastgan.sources import picture_names
from fastgan.watch import read_log

ROOT = Path(__file__).parents[1]
NETWORKS = ("efficientnet-lite1", "efficientnet-lite2")  # neither of them teaches a recipe
TONES = {f"1f3f{digit}" for digit in "bcdef"}  # code points of skin tones


def subject(name: str) -> str:
    """What an emoji's file shows, whatever its skin tone: its code points without that one."""
    return "-".join(part for part in Path(name).stem.split("-") if part not in TONES)


def cut_in_two(pictures: Path, halves: tuple[Path, Path]) -> None:
    """Copy a folder of pictures into two, subjects taking turns."""
    names = picture_names(pictures)
    subjects = sorted({subject(name) for name in names})
    if len(subjects) < 2:
        raise UserError(f"{pictures}: shows one thing only; there is nothing to cut in two")
    for half in halves:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
    for name in names:
        shutil.copy(pictures / name, halves[subjects.index(subject(name)) % 2] / name.replace("/", "_"))


def train(folder: Path, dataset: Path, minutes: float, flags: list[str]) -> int:
    """Train in a process of its own. Returns how many pictures were shown."""
    shutil.rmtree(folder, ignore_errors=True)
    quiet = ["--checkpoint-every", "never", "--sample-every", "never", "--eval-images", "0"]
    command = [sys.executable, "train.py", "--dataset", dataset, "--output-dir", folder, *quiet, *flags]
    code = subprocess.run([*map(str, command), "--max-minutes", str(minutes)], cwd=ROOT).returncode
    if code:
        raise SystemExit(code)  # it has said why
    return read_log(folder / "log.jsonl")[-1]["images"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dataset", type=Path, default=ROOT / "examples" / "emoji_faces", help="folder of pictures")
    parser.add_argument("--size", default="64", help="pixels [64]")
    parser.add_argument("--base-minutes", type=float, default=10.0, help="for the model to start from [10]")
    parser.add_argument("--minutes", type=float, default=3.0, help="for each of the two runs [3]")
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tune"), help="where runs and grids go")
    options, flags = parser.parse_known_args()

    out = options.out.resolve()
    first, second = halves = out / "first-half", out / "second-half"
    cut_in_two(options.dataset, halves)
    flags = ["--size", options.size, *flags]
    train(out / "base", first, options.base_minutes, flags)
    shown = {
        "from the model": train(out / "tuned", second, options.minutes, [*flags, "--init-from", str(out / "base")]),
        "from nothing": train(out / "scratch", second, options.minutes, flags),
    }
    rows = []
    for (name, images), folder in zip(shown.items(), (out / "tuned", out / "scratch"), strict=True):
        generator = from_pretrained(folder)
        pictures = load_pictures(str(second), size=parse_size(options.size), channels=generator.config.channels)
        found = evaluate(generator, pictures, NETWORKS, teachers=())
        sheet = sampling.grid(torch.cat(list(sampling.sample(generator, range(32)))), columns=8)
        write_file(out / f"{folder.name}.png", lambda path, sheet=sheet: sheet.save(path))
        figures = [f"{1000 * part.kid:.1f} ± {1000 * part.kid_std:.1f}" for part in found.results]
        rows.append(f"| {name} | {images / 1000:.1f} | {' | '.join(figures)} |")

    counts = [len(picture_names(half)) for half in halves]
    print(
        f"\n{options.base_minutes:g} minutes on {counts[0]} pictures, then {options.minutes:g} on {counts[1]} others,"
    )
    print(f"{options.size} pixels; KID ×1000 against the {counts[1]}, as many drawn; these networks taught neither\n")
    print(f"| second half, {options.minutes:g} minutes | kimg | {' | '.join(f'KID {name}' for name in NETWORKS)} |")
    print("| --- | --- | --- | --- |")
    print("\n".join(rows))
    print(f"\nGrids: {out / 'tuned.png'} and {out / 'scratch.png'}")


if __name__ == "__main__":
    sys.exit(tell(main))
