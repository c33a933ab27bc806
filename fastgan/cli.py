"""Flags to settings, and the commands: `train.py` or `fastgan train` trains, `fastgan` does the rest."""

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastgan.commands import add_commands
from fastgan.config import GROUPS, OF_DATASET, OF_HUB, RESUMABLE, TrainConfig, choices_of, flag, kinds_of
from fastgan.errors import UserError
from fastgan.files import SETTINGS_FILE, quoted, read_json
from fastgan.hub_commands import add_hub_commands
from fastgan.launch import is_in_a_cell, missing_processes, start_beside_the_cell, start_processes


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}. See {self.prog} --help\n")


def run(command: Callable[[], Any]) -> int:
    """Run a command, which may return an exit code; a person's mistake becomes one line and 2, Ctrl-C a line and 130.

    Of several training processes on a machine one speaks: they meet the same mistakes.
    """
    _fit_the_terminal()
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        if speaks:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt as stop:
        if speaks:
            print(str(stop) or "Stopped.", file=sys.stderr)
        return 130


def _fit_the_terminal() -> None:
    """Have output that suits whatever reads it: letters that it has, and a size where it states none."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # Windows redirects in code pages without ± or emoji
    if os.name == "posix" and sys.stderr.isatty():
        import termios

        with suppress(termios.error):
            if termios.tcgetwinsize(2) == (0, 0):  # as in a cell of Colab, where progress bars would stay away
                termios.tcsetwinsize(2, (24, 100))


# ---------------------------------------------------------------------- train.py


def train_parser(prog: str = "train.py") -> Parser:
    """The flags of train.py, one per field of TrainConfig; `prog` is how it was started."""
    launch = "train.py" if prog == "train.py" else f"-m {prog}"
    parser = Parser(
        prog=prog,
        usage=f"{prog} --dataset USER/NAME|PATH [options]      (or: accelerate launch {launch} ...)",
        description="Train a FastGAN generator on your pictures.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=36, width=119),
    )
    parser.add_argument("--config", metavar="FILE.json", help="settings from a file; flags override it")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder from its newest checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and stop")
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    for field in dataclasses.fields(TrainConfig):
        text = field.metadata["help"]
        if "paper" in field.metadata:
            projected, paper = (shown(field.metadata[recipe]) for recipe in ("projected", "paper"))
            text += f" [{projected}; paper {paper}]"
        elif field.default not in (None, "", False):
            text += f" [{shown(field.default)}]"
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


def shown(value: Any) -> Any:
    """A default as the help says it."""
    return {True: "on", False: "off", None: "the same"}[value] if value is None or isinstance(value, bool) else value


def _metavar(kind: type) -> str:
    return {int: "N", float: "X", str: "TEXT"}[kind]


def resolve(arguments: Sequence[str], prog: str = "train.py") -> tuple[TrainConfig, bool, bool]:
    """The settings that flags stand for, whether to resume, and whether only to print them."""
    flags = vars(train_parser(prog).parse_args(arguments))
    path, resume, dry_run = flags.pop("config"), flags.pop("resume"), flags.pop("dry_run")
    if resume is not None:
        if path is not None:
            raise UserError("--resume brings its own settings; leave out --config")
        if "output_dir" in flags:
            raise UserError(f"--resume {resume}: goes on in that folder; leave out --output-dir")
        try:
            saved = read_json(Path(resume) / SETTINGS_FILE)
        except UserError as error:
            raise UserError(f"--resume {resume}: no run folder ({error})") from None
        config = TrainConfig.of_run(saved, f"{resume}/{SETTINGS_FILE}")
        given = dataclasses.replace(config, **flags)  # which knows a dataset on this disk by its whole path
        may_change = RESUMABLE
        if given.dataset != config.dataset:  # is elsewhere now, where its parts have other names or none
            as_ever = {f.name: f.default for f in dataclasses.fields(config) if f.name in OF_DATASET}
            given, may_change = dataclasses.replace(given, **{**as_ever, **flags}), RESUMABLE | OF_DATASET
        changed = [name for name in flags if getattr(given, name) != getattr(config, name) and name not in may_change]
        if changed:
            raise UserError(
                f"--resume {resume}: that run has {', '.join(f'{flag(n)} {getattr(config, n)}' for n in changed)}; "
                "leave these flags out, or start a new run"
            )
        if flags.keys() & OF_HUB:
            given.check_use()
        return dataclasses.replace(given, output_dir=resume), True, dry_run
    values = {} if path is None else read_json(Path(path))
    if isinstance(values, dict):
        if source := flags.get("init_from", values.get("init_from")):
            from fastgan.finetune import open_base, settings_of

            if flags.get("grow_from"):
                raise UserError("--grow-from: a run that starts from a model is at full size at once; leave it out")
            values = {**settings_of(open_base(str(source))), **values}
        values = {**values, **flags}
    config = TrainConfig.from_dict(values, path or "flags")
    config.check_use()
    return config, False, dry_run


def train_main(arguments: Sequence[str] | None = None, prog: str = "train.py") -> int:
    """What `train.py` and `fastgan train` run. Returns the exit code."""

    arguments = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        config, resume, dry_run = resolve(arguments, prog)
        if dry_run:
            print(json.dumps(config.to_dict(), indent=2))
            return 0
        if missing := missing_processes():
            return start_processes(missing, arguments)
        if is_in_a_cell():
            return start_beside_the_cell(arguments)
        try:
            from fastgan.trainer import train
        except ImportError as error:
            raise UserError(f'train: needs the package {error.name}: pip install -e ".[train]"') from None

        train(config, resume)
        return 0

    return run(command)


# ---------------------------------------------------------------------- fastgan


def main(arguments: Sequence[str] | None = None) -> int:
    """What the console script `fastgan` runs. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["train"]:
        return train_main(arguments[1:], "fastgan train")
    parser = Parser(prog="fastgan", description="Train a generator, draw with it, and show it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    commands.add_parser("train", help="a generator on your pictures; the same as python train.py")
    add_commands(commands)
    add_hub_commands(commands)
    options = parser.parse_args(arguments)
    options.typed = " ".join(map(quoted, ["fastgan", *arguments]))

    def command() -> Any:
        if getattr(options, "fast", True):
            return options.run(options)
        from fastgan import fast

        with fast.use(False):
            return options.run(options)

    return run(command)
