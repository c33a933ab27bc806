"""Recipes against each other: every setting trains for the same time on the same pictures, and is then measured.

    python benchmarks/recipes.py --minutes 5 --size 64 --seeds 0,1 --settings "" "--batch-size 8" "--recipe paper"

Runs follow each other, so each has the machine to itself. What was found is kept in a folder, as JSON with a grid; a
second call trains only what is missing and prints the table again.
"""

import argparse
import hashlib
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import mean

import torch
from PIL import Image, ImageDraw

from fastgan import sampling
from fastgan.cli import resolve
from fastgan.cli import run as tell
from fastgan.data import load_pictures
from fastgan.errors import UserError
from fastgan.evaluation import evaluate
from fastgan.files import write_file, write_json
from fastgan.hub import from_pretrained
from fastgan.watch import read_log

ROOT = Path(__file__).parents[1]
NETWORKS = ("efficientnet-lite1", "efficientnet-lite2")  # neither of them teaches any recipe
FIGURES = {
    "kid": "KID ×1000",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "diversity": "diversity",
    "near_share": "copies",
    "distance_ratio": "distance",
}
GRID = range(32)


def run_once(folder: Path, flags: list[str]) -> dict:
    """Train with these flags, measure, and keep what was found in the folder; read it where it is there already."""
    result = folder / "result.json"
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    config, _, _ = resolve(flags)
    command = [sys.executable, "train.py", *flags, "--output-dir", str(folder / "run"), "--checkpoint-every", "never"]
    code = subprocess.run([*command, "--sample-every", "never", "--eval-images", "0"], cwd=ROOT).returncode
    if code:
        raise SystemExit(code)  # it has said why
    generator = from_pretrained(folder / "run")
    pictures = load_pictures(config.dataset, size=(config.model.height, config.model.width), channels=config.channels)
    found = evaluate(generator, pictures, NETWORKS, teachers=())
    images = torch.cat(list(sampling.sample(generator, GRID)))
    write_file(folder / "grid.png", lambda path: sampling.grid(images, columns=8).save(path))
    last = read_log(folder / "run" / "log.jsonl")[-1]
    values = {
        "kimg": last["images"] / 1000,
        "images_per_second": last["images"] / last["seconds"],
        "figures": {part.network: {name: getattr(part, name) for name in FIGURES} for part in found.results},
    }
    write_json(result, values)
    return values


def table(rows: dict[tuple[str, str], list[dict]]) -> str:
    """Means over the seeds as Markdown; KID with each seed's own beside it."""
    short = {network: network.removeprefix("efficientnet-") for network in NETWORKS}
    heads = [f"{label}, {short[network]}" for network in NETWORKS for label in FIGURES.values()]
    lines = [f"| pictures | setting | kimg | images/s | {' | '.join(heads)} |", "| --- " * (4 + len(heads)) + "|"]
    for (dataset, setting), runs in rows.items():
        cells = [f"{mean(run['kimg'] for run in runs):.1f}", f"{mean(run['images_per_second'] for run in runs):.1f}"]
        for network in NETWORKS:
            for name in FIGURES:
                values = [run["figures"][network][name] for run in runs]
                if name == "kid":
                    own = f" ({', '.join(f'{1000 * value:.1f}' for value in values)})" if len(values) > 1 else ""
                    cells.append(f"{1000 * mean(values):.1f}{own}")
                else:
                    cells.append(f"{mean(values):.2f}")
        lines.append(f"| {Path(dataset).name} | `{setting or 'default'}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet(folders: dict[str, Path]) -> Image.Image:
    """The grids of several runs, two in a row, each below its name."""
    grids = {name: Image.open(folder / "grid.png").convert("RGB") for name, folder in folders.items()}
    columns = min(2, len(grids))
    width, height = max(grid.width for grid in grids.values()) + 8, max(grid.height for grid in grids.values()) + 20
    picture = Image.new("RGB", (columns * width, math.ceil(len(grids) / columns) * height), "white")
    for i, (name, grid) in enumerate(grids.items()):
        left, top = i % columns * width, i // columns * height
        ImageDraw.Draw(picture).text((left + 4, top + 4), name, fill="black")
        picture.paste(grid, (left, top + 20))
    return picture


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["examples/emoji_faces"], help="sets of pictures")
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["", "--recipe paper"],
        help="flags of train.py, each set in quotes, with a space before the first",
    )
    parser.add_argument("--seeds", default="0,1", help="one run each [0,1]")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, each run [5.0]")
    parser.add_argument("--size", default="64", help="pixels [64]")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "recipes", help="where results are kept")
    options = parser.parse_args()
    seeds = sampling.parse_seeds(options.seeds)
    rows: dict[tuple[str, str], list[dict]] = {}
    grids: dict[str, Path] = {}
    for seed in seeds:
        for dataset in options.datasets:
            for setting in map(str.strip, options.settings):
                flags = ["--dataset", dataset, "--size", options.size, "--max-minutes", str(options.minutes)]
                flags += ["--seed", str(seed), *shlex.split(setting)]
                folder = options.out / hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:12]
                if (folder / "run").exists() and not (folder / "result.json").exists():
                    raise UserError(f"{folder}: an unfinished run is there; remove it to train it again")
                rows.setdefault((dataset, setting), []).append(run_once(folder, flags))
                grids[f"{Path(dataset).name}: {setting or 'default'}, seed {seed}"] = folder
    print(table(rows))
    path = options.out / f"grids-{options.size}-{options.minutes:g}min.png"
    write_file(path, lambda temporary: sheet(grids).save(temporary))
    print(f"\nSeeds 0 to 31 of every run: {path}")


if __name__ == "__main__":
    sys.exit(tell(main))
