"""The commands that bring things to the Hub; `fastgan.cli` puts them beside the others."""

import argparse
from pathlib import Path

from fastgan.errors import UserError
from fastgan.files import SAMPLES_FILE, STYLE_MIX_FILE, WALK_FILE, quoted
from fastgan.launch import train_command


def add_hub_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands."""
    card = commands.add_parser("card", help="write the card of a run, and its pictures, into the run folder")
    card.add_argument("folder", type=Path, metavar="RUN", help="run folder, or an imported model")
    card.add_argument("--repo", metavar="USER/NAME", help="Hub id that the card is for")
    card.add_argument("--license", metavar="NAME", help="of the model, such as mit or cc-by-4.0")
    card.set_defaults(run=card_command)

    push = commands.add_parser("push", help="a run to the Hub, in one commit")
    push.add_argument("folder", type=Path, metavar="RUN", help="run folder, or an imported model")
    push.add_argument("repo", metavar="USER/NAME", help="repository; created if missing, and private then")
    push.add_argument("--public", action="store_true", help="everyone may see it")
    push.add_argument("--best", action="store_true", help="the weights with the best KID rather than the last")
    push.add_argument("--nearest", action="store_true", help="with nearest.png, which shows training pictures")
    push.add_argument("--license", metavar="NAME", help="of the model, such as mit or cc-by-4.0")
    push.add_argument("--revision", metavar="REV", help="branch; created if missing [main]")
    push.add_argument("--message", metavar="TEXT", help="of the commit [how far the run is]")
    push.set_defaults(run=push_command)

    space = commands.add_parser("space", help="a Space that opens with a model")
    spaces = space.add_subparsers(required=True, metavar="COMMAND", parser_class=type(space))
    create = spaces.add_parser("create", help="make it, or give it new files")
    create.add_argument("repo", metavar="USER/DEMO", help="Space; created if missing, and private then")
    create.add_argument("--model", required=True, metavar="USER/MODEL", help="what it opens with; @revision is fine")
    create.add_argument("--title", metavar="TEXT", help="[the model's name]")
    create.add_argument("--public", action="store_true", help="everyone may see it")
    create.add_argument("--dry-run", type=Path, metavar="FOLDER", help="write its files there and push nothing")
    create.set_defaults(run=space_command)

    dataset = commands.add_parser("dataset", help="pictures of your own on the Hub")
    datasets = dataset.add_subparsers(required=True, metavar="COMMAND", parser_class=type(dataset))
    pictures = datasets.add_parser("push", help="a folder of pictures as parquet, with a card")
    pictures.add_argument("folder", type=Path, metavar="FOLDER")
    pictures.add_argument("repo", metavar="USER/NAME", help="dataset; created if missing, and private then")
    pictures.add_argument("--public", action="store_true", help="everyone may see it")
    pictures.add_argument("--license", metavar="NAME", help="of the pictures, such as mit or cc-by-4.0")
    pictures.set_defaults(run=dataset_command)


def card_command(options: argparse.Namespace) -> None:
    """`fastgan card`: draw the card's pictures and write README.md into the run folder."""
    from fastgan.cards import write_card

    path = write_card(options.folder, options.repo, options.license)
    pictures = [name for name in (SAMPLES_FILE, STYLE_MIX_FILE, WALK_FILE) if (options.folder / name).is_file()]
    print(f"Wrote {path}, with {', '.join(pictures)}")


def push_command(options: argparse.Namespace) -> None:
    """`fastgan push`: put a run on the Hub."""
    from fastgan.publish import push, size_text

    try:
        done = push(
            options.folder,
            options.repo,
            public=options.public,
            revision=options.revision,
            message=options.message,
            license=options.license,
            best=options.best,
            nearest=options.nearest,
        )
    except UserError as error:
        raise UserError(f"{error}. Nothing of this push is on the Hub; try again with: {options.typed}") from None
    except KeyboardInterrupt:
        text = "Stopped. A push is one commit, so it is there whole or not at all. Push again with:"
        raise KeyboardInterrupt(f"{text} {options.typed}") from None
    where = f"{done.url} ({'private' if done.private else 'public'})"
    print(f"Pushed {options.folder} to {where}: {len(done.files)} files, {size_text(done.size)}, commit {done.commit}")
    print(f"  {', '.join(done.files)}")
    for remark in done.remarks:
        print(remark)
    model = "/".join(done.url.rsplit("/", 2)[-2:])
    print(f"Next: fastgan app {model}{f'@{options.revision}' if options.revision else ''}")


def space_command(options: argparse.Namespace) -> None:
    """`fastgan space create`: push a Space, or write its folder."""
    from fastgan.space import create_space, write_space

    if options.dry_run:
        names = write_space(options.dry_run, options.model, options.title)
        print(f"Wrote {options.dry_run}: {', '.join(names)}")
        needs, app = (quoted(options.dry_run / name) for name in ("requirements.txt", "app.py"))
        print(f"Try it: pip install -r {needs}, then python {app}")
        return
    done = create_space(options.repo, options.model, options.title, options.public)
    print(f"Pushed {done.url} ({'private' if done.private else 'public'}), commit {done.commit}")
    if done.closed:
        text = f"is {done.closed}: give the Space a secret HF_TOKEN that may read it, at {done.url}/settings"
        print(f"{options.model} {text}")


def dataset_command(options: argparse.Namespace) -> None:
    """`fastgan dataset push`: put a folder of pictures on the Hub."""
    try:
        from fastgan.dataset import push_dataset
    except ImportError as error:
        raise UserError(f'dataset push: needs the package {error.name}: pip install -e ".[train]"') from None

    done = push_dataset(options.folder, options.repo, options.public, options.license)
    where = f"{done.url} ({'private' if done.private else 'public'})"
    print(f"Pushed {done.pictures} pictures to {where}, commit {done.commit}")
    for remark in done.remarks:
        print(remark)
    split = "" if "train" in done.splits else f" --split {done.splits[0]}"
    print(f"Next: {train_command()} --dataset {'/'.join(done.url.rsplit('/', 2)[-2:])}{split}")
