"""A model's page as a Space: everything it needs in one folder, which starts anywhere."""

import re
from pathlib import Path
from typing import NamedTuple

import yaml
from huggingface_hub import HfApi
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import fastgan
from fastgan.errors import UserError
from fastgan.files import is_taken, write_folder
from fastgan.hub import fetch_config
from fastgan.publish import commit_files, how_closed, make_public, prepare_repo, read_remote

FILES = ("README.md", "app.py", "requirements.txt")
SHIPPED = (".py", ".md", ".html", ".txt")  # of the package's files, beside its licence
PYTHON = "3.12"  # the only one of ours that ZeroGPU has
LONGEST_DESCRIPTION = 60  # characters; the Hub refuses longer ones

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "spaces" / "gradio"),
    keep_trailing_newline=True,
    undefined=StrictUndefined,
    autoescape=False,
)
_templates.filters["yaml"] = lambda text: (
    yaml.safe_dump(text, allow_unicode=True, width=1000).removesuffix("...\n").strip()
)


class Created(NamedTuple):
    """A Space on the Hub."""

    url: str
    commit: str
    private: bool
    closed: str  # "private" or "gated" where the Space needs a secret to read the model; else empty


def render_space(model: str, title: str | None = None) -> dict[str, bytes]:
    """The files of a Space that opens with a model, by their path: three rendered ones and this package beside them.

    Args:
        model: Hub id, which may name a revision as in "user/model@v1".
        title: of the Space; made of the model's name when not given.
    """
    name = model.partition("@")[0].rpartition("/")[2]
    title = title or name.replace("-", " ").replace("_", " ").strip().capitalize()
    if any(character in title for character in ':#"\n{}[]'):
        raise UserError(f"--title {title!r}: letters, digits, spaces and simple marks only")
    requirements = _templates.get_template("requirements.txt").render()
    pinned = dict(line.split("==") for line in requirements.splitlines() if "==" in line)
    facts = {
        "title": title,
        "model": model,
        "repository": model.partition("@")[0],
        "gradio": next(version for package, version in pinned.items() if package.startswith("gradio")),
        "python": PYTHON,
        "short_description": f"Pictures drawn by {name}"[:LONGEST_DESCRIPTION],
    }
    files = {file: _templates.get_template(file).render(facts).encode() for file in FILES}
    package = Path(fastgan.__file__).parent
    for path in sorted(package.rglob("*")):
        if path.suffix in SHIPPED or path.name == "LICENSE":
            files[f"fastgan/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    return files


def write_space(folder: Path, model: str, title: str | None = None) -> list[str]:
    """Write the folder of a Space. Returns the names in it.

    Raises:
        UserError: the folder has something in it, or can't be written.
    """
    if is_taken(folder):
        raise UserError(f"{folder}: already there; choose a new folder")
    files = render_space(_checked(model), title)

    def write(temporary: Path) -> None:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)

    write_folder(folder, write)
    return sorted({name.partition("/")[0] for name in files})


def create_space(repo: str, model: str, title: str | None = None, public: bool = False) -> Created:
    """Push a Space that opens with a model. One that is there gets new files; its settings and secrets stay.

    Args:
        repo: Hub id of the Space; a name alone is one's own.
        model: Hub id of the model, which may name a revision as in "user/model@v1".
        title: of the Space; made of the model's name when not given.
        public: everyone may see it; a new Space is private otherwise.

    Raises:
        UserError: no such model, no right to write, or the Hub would not have it.
    """
    files = render_space(_checked(model), title)
    name, _, revision = model.partition("@")
    fetch_config(name, revision or None)
    closed = how_closed(name, revision or None)
    full, private = prepare_repo(repo, "space", public, space_sdk="gradio")
    page = read_remote(full, "app.py", "space")
    if page is not None and "fastgan" not in page:
        raise UserError(f"{full}: is a Space of another kind; choose another name")
    commit = commit_files(full, files, f"A page for {model}", "space")
    private = private and not (public and make_public(full, "space"))
    return Created(f"{HfApi().endpoint}/spaces/{full}", commit, private, closed)


def _checked(model: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", model, re.ASCII):
        return model
    raise UserError(f"--model {model}: no Hub id; it looks like user/fastgan-anime or user/fastgan-anime@main")
