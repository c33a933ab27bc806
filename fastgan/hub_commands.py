"""The commands that bring things to the Hub; `fastgan.cli` puts them beside the others."""

import argparse
from pathlib import Path

from fastgan.errors import UserError


def add_hub_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of these commands."""
    card = commands.add_parser("card", help="the card of a run, as it would be on the Hub")
    card.add_argument("folder", type=Path, metavar="RUN", help="run folder, or an imported model")
    card.add_argument("--repo", metavar="USER/NAME", help="Hub id that the card is for")
    card.add_argument("--license", help="of the model, such as mit or cc-by-4.0")
    card.set_defaults(run=card_command)

    push = commands.add_parser("push", help="a run to the Hub, in one commit")
    push.add_argument("folder", type=Path, metavar="RUN", help="run folder, or an imported model")
    push.add_argument("repo", metavar="USER/NAME", help="repository; made if need be, and private then")
    push.add_argument("--public", action="store_true", help="everyone may see it")
    push.add_argument("--best", action="store_true", help="the weights with the best KID rather than the last")
    push.add_argument("--nearest", action="store_true", help="with nearest.png, which shows training pictures")
    push.add_argument("--license", help="of the model, such as mit or cc-by-4.0")
    push.add_argument("--revision", help="branch; made if need be [main]")
    push.add_argument("--message", help="of the commit [how far the run is]")
    push.set_defaults(run=push_command)


def card_command(options: argparse.Namespace) -> None:
    """`fastgan card`: draw the card's pictures and write README.md into the run folder."""
    from fastgan.cards import SAMPLES, STYLE_MIX, WALK, write_card

    path = write_card(options.folder, options.repo, options.license)
    pictures = [name for name in (SAMPLES, STYLE_MIX, WALK) if (options.folder / name).is_file()]
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
    where = f"{done.url} ({'private' if done.private else 'public'})"
    print(f"Pushed {options.folder} to {where}: {len(done.files)} files, {size_text(done.size)}, commit {done.commit}")
    print(f"  {', '.join(done.files)}")
    for remark in done.remarks:
        print(remark)
    model = "/".join(done.url.rsplit("/", 2)[-2:])
    print(f"Next: fastgan app {model}")
