"""Flags to settings, and the commands: `train.py` trains, `fastgan` does the rest."""

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastgan.config import TrainConfig, choices_of, flag, kinds_of, read_json
from fastgan.errors import UserError
from fastgan.launch import missing_processes, start_processes

GROUPS = {
    "data": "The pictures",
    "recipe": "How it learns",
    "start": "Where it starts",
    "length": "How long (the first limit reached ends the run)",
    "run": "The run",
    "hub": "The Hub",
}
MAY_CHANGE = {  # on resuming: all that says how long, how often and where to, not what is learned
    "duration_kimg",
    "max_steps",
    "max_minutes",
    "log_every",
    "sample_every",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_images",
    "report_to",
    "output_dir",
    "cache_dir",
    "push_to_hub",
    "hub_public",
    "hub_strategy",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help\n")


def run(command: Callable[[], Any]) -> int:
    """Run a command, which may return an exit code; a person's mistake becomes one line and 2, Ctrl-C a line and 130.

    Of several training processes on a machine one speaks: they meet the same mistakes.
    """
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        return command() or 0
    except UserError as error:
        if speaks:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if speaks:
            print(str(stop) or "Stopped.", file=sys.stderr)
        return 130


# ---------------------------------------------------------------------- train.py


def train_parser() -> Parser:
    """The flags of train.py, one per field of TrainConfig."""
    parser = Parser(
        prog="train.py",
        usage="train.py --dataset USER/NAME|PATH [options]      (or: accelerate launch train.py ...)",
        description="Train a FastGAN generator on your pictures.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=119),
    )
    parser.add_argument("--config", metavar="RUN.json", help="settings from a file; flags override it")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder from its newest checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for field in dataclasses.fields(TrainConfig):
        text = field.metadata["help"]
        if "paper" in field.metadata:
            text += f" [{field.metadata['projected']}; paper {field.metadata['paper']}]"
        elif field.default not in (None, "", False):
            text += f" [{'on' if field.default is True else field.default}]"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        kinds = [kind for kind in kinds_of(field.type) if kind is not type(None)]
        if kinds == [bool]:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = kinds[0]
            choices = field.metadata.get("choices") or choices_of(field.type)
            options["choices"] = choices or None
            options["metavar"] = field.metadata.get("metavar") or ("|".join(map(str, choices)) or _metavar(kinds[0]))
        groups[field.metadata["group"]].add_argument(flag(field.name), **options)
    return parser


def _metavar(kind: type) -> str:
    return {int: "N", float: "X", str: "TEXT"}[kind]


def resolve(arguments: Sequence[str]) -> tuple[TrainConfig, bool, bool]:
    """The settings that flags stand for, whether to resume, and whether only to print them."""
    flags = vars(train_parser().parse_args(arguments))
    path, resume, dry_run = flags.pop("config"), flags.pop("resume"), flags.pop("dry_run")
    if resume is not None:
        if path is not None:
            raise UserError("--resume brings its own settings; leave out --config")
        saved = read_json(Path(resume) / "train_config.json")
        config = TrainConfig.from_dict(saved, f"{resume}/train_config.json")
        given = dataclasses.replace(config, **flags)
        changed = [name for name in flags if getattr(given, name) != getattr(config, name) and name not in MAY_CHANGE]
        if changed:
            raise UserError(
                f"--resume {resume}: that run has {', '.join(f'{flag(n)} {getattr(config, n)}' for n in changed)}; "
                "leave these flags out, or start a new run"
            )
        return dataclasses.replace(given, output_dir=resume), True, dry_run
    values = {} if path is None else read_json(Path(path))
    if isinstance(values, dict):
        if source := flags.get("init_from", values.get("init_from")):
            from fastgan.finetune import open_base, settings_of

            values = {**settings_of(open_base(str(source))), **values}
        values = {**values, **flags}
    return TrainConfig.from_dict(values, path or "flags"), False, dry_run


def train_main(arguments: Sequence[str] | None = None) -> int:
    """What `train.py` runs. Returns the exit code."""

    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        config, resume, dry_run = resolve(arguments)
        if dry_run:
            print(json.dumps(config.to_dict(), indent=2))
            return 0
        if missing := missing_processes():
            return start_processes(missing, arguments)
        from fastgan.trainer import train

        train(config, resume)
        return 0

    return run(command)


# ---------------------------------------------------------------------- fastgan


def main(arguments: Sequence[str] | None = None) -> int:
    """What the console script `fastgan` runs. Returns the exit code."""
    from fastgan.commands import add_commands  # these import this module
    from fastgan.hub_commands import add_hub_commands

    parser = Parser(
        prog="fastgan", description="Draw with a trained model, and show it. Training: python train.py --help"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    draw = commands.add_parser("sample", help="pictures for seeds, as a grid or as files")
    add_model(draw)
    draw.add_argument("--seeds", default="0-15", help="numbers and ranges like 0-15 or 3,7,100-103 [0-15]")
    draw.add_argument("--psi", type=float, default=1.0, help="truncation: 1 is off, lower is less varied [1.0]")
    draw.add_argument("--grid", type=Path, metavar="FILE.png", help="one picture with all of them")
    draw.add_argument("--out", type=Path, metavar="FOLDER", help="one PNG per seed")
    draw.add_argument("--columns", type=int, help="of the grid; as square as it gets when not given")
    draw.set_defaults(run=sample_command)

    app = commands.add_parser("app", help="the page in a browser")
    app.add_argument("model", nargs="?", default="", help="Hub id or run folder to open with")
    app.add_argument("--models", default="", metavar="A,B", help="more models that the page offers")
    app.add_argument("--allow-local", action="store_true", help="folders may be typed too: only on your own machine")
    app.add_argument("--mcp", action="store_true", help="serve the actions as MCP tools too")
    app.add_argument("--port", type=int, help="[the first free one from 7860]")
    app.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reachable from other machines [127.0.0.1]")
    app.set_defaults(run=app_command)

    bring = commands.add_parser("import", help="an original FastGAN checkpoint as a model folder")
    bring.add_argument("source", metavar="SOURCE", help="file, or one on the Hub like user/repo:all_50000.pth")
    bring.add_argument("out", type=Path, metavar="OUT", help="new folder")
    bring.add_argument("--weights", choices=("ema", "raw"), help="averaged or raw ones [ema when the file has them]")
    bring.add_argument(
        "--reestimate-batch-norm",
        action="store_true",
        help="measure batch-norm statistics afresh: helps when colours look shifted",
    )
    bring.add_argument("--license", help="of the source [what its card on the Hub says]")
    bring.add_argument("--revision", help="branch, tag or commit on the Hub")
    bring.set_defaults(run=import_command)

    add_commands(commands)
    add_hub_commands(commands)

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(arguments)
    options.typed = shlex.join(["fastgan", *arguments])
    return run(lambda: options.run(options))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add what says which model, and where it runs."""
    parser.add_argument("model", help="Hub id like user/fastgan-anime, or a run folder")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps [cpu]")


def sample_command(options: argparse.Namespace) -> None:
    """`fastgan sample`: write a grid, or one PNG per seed with what it takes to draw it again."""
    from tqdm import tqdm

    from fastgan.hub import from_pretrained, write_file
    from fastgan.sampling import grid, parse_seeds, png_info, sample, to_pil

    if not options.grid and not options.out:
        raise UserError("sample: say where to: --grid FILE.png or --out FOLDER")
    if options.columns is not None and options.columns < 1:
        raise UserError(f"--columns: expected at least 1, got {options.columns}")
    if options.grid and options.grid.suffix.lower() != ".png":
        raise UserError(f"--grid {options.grid}: expected a name that ends in .png")
    seeds = parse_seeds(options.seeds)
    generator = from_pretrained(options.model, revision=options.revision, device=device(options.device))
    pictures = (picture for batch in sample(generator, seeds, options.psi) for picture in batch)
    model = Path(options.model).name if os.path.isdir(options.model) else options.model

    kept = []
    for seed, picture in zip(seeds, tqdm(pictures, total=len(seeds), unit=" pictures", disable=None), strict=True):
        if options.out:
            image, info = to_pil(picture), png_info(model, options.revision or "", seed=seed, psi=options.psi)
            write_file(options.out / f"seed{seed:04d}.png", lambda path, i=image, p=info: i.save(path, pnginfo=p))
        if options.grid:
            kept.append(picture)
    if options.out:
        print(f"{len(seeds)} pictures in {options.out}")
    if options.grid:
        import torch

        sheet = grid(torch.stack(kept), options.columns)
        info = png_info(model, options.revision or "", seed=options.seeds, psi=options.psi)
        write_file(options.grid, lambda path: sheet.save(path, pnginfo=info))
        print(f"{len(seeds)} pictures in {options.grid}")


def device(name: str):
    """The torch device of that name.

    Raises:
        UserError: it is not there.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name}: not available here; try cpu") from None
    return device


def app_command(options: argparse.Namespace) -> None:
    """`fastgan app`: open the page."""
    try:
        from fastgan.app import launch
    except ImportError as error:
        raise UserError(f"app: needs the package {error.name}: pip install 'fastgan[app]'") from None
    models = [name.strip() for name in options.models.split(",") if name.strip()]
    launch(
        options.model,
        host=options.host,
        port=options.port,
        models=models,
        allow_local=options.allow_local,
        mcp=options.mcp,
    )


def import_command(options: argparse.Namespace) -> None:
    """`fastgan import`: write a model folder from a checkpoint of another program."""
    from fastgan.convert import import_checkpoint

    done = import_checkpoint(
        options.source,
        options.out,
        weights=options.weights,
        reestimate=options.reestimate_batch_norm,
        license=options.license,
        revision=options.revision,
    )
    config, facts = done.config, done.facts
    weights = {"ema": "averaged weights", "raw": "raw weights"}.get(facts["weights"], "weights as stored")
    print(
        f"Read {facts['source']} ({facts['layout']}, {weights}): "
        f"{config.width}x{config.height}, {config.channels} channels, ngf {config.ngf}, z_dim {config.z_dim}"
    )
    print(f"Wrote {options.out}: {', '.join(done.files)}")
    for remark in done.remarks:
        print(remark)
    print(f"Next: fastgan sample {options.out} --grid samples.png")
