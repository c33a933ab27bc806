import ast
import re
import subprocess
import sys
import tomllib
import urllib.request
from importlib.metadata import version
from pathlib import PurePath

import pytest
import yaml
from huggingface_hub import HfApi
from huggingface_hub.cli._uv_script_header import parse_uv_script_header
from packaging.requirements import Requirement
from packaging.version import Version

from fastgan.config import ModelConfig
from fastgan.hub import save_model
from fastgan.models import Generator
from fastgan.space import render_space
from tests.app_server import app_running
from tests.commands import ROOT, only_line, run_python, without_hub

HARDWARES = {"torch", "torchvision"}  # in the version that the hardware of a Space has
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line]
    return {requirement.name: requirement for requirement in found}


def test_a_space_asks_for_what_the_page_needs_in_the_versions_that_are_tested():
    pinned = requirements(render_space("user/model")["requirements.txt"].decode())
    needed = requirements((ROOT / "requirements.txt").read_text())
    assert pinned.keys() == needed.keys()
    for name, requirement in pinned.items():
        assert needed[name].specifier.contains(version(name))
        assert needed[name].extras <= requirement.extras
        if name in HARDWARES:
            assert requirement.specifier == needed[name].specifier
            continue
        [pin] = requirement.specifier
        assert pin.operator == "==" and needed[name].specifier.contains(pin.version)
        here, pinned_version = Version(version(name).partition("+")[0]), Version(pin.version)
        # They are those of the oldest Python; newer ones have newer packages.
        assert here == pinned_version if sys.version_info[:2] == (3, 11) else here >= pinned_version


def test_a_space_holds_the_package_and_no_more():
    files = render_space("user/fastgan-anime@v1", None)
    names = {name for name in files if not name.startswith("fastgan/")}
    assert names == {"README.md", "app.py", "requirements.txt"}
    assert files["fastgan/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert {PurePath(name).suffix for name in files} == {".py", ".md", ".html", ".txt", ""}
    assert files["fastgan/models.py"] == (ROOT / "fastgan" / "models.py").read_bytes()
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]
    ast.parse(files["app.py"])
    assert b'"user/fastgan-anime@v1"' in files["app.py"]
    readme, pinned = files["README.md"].decode(), requirements(files["requirements.txt"].decode())
    assert "title: Fastgan anime\n" in readme and f"sdk_version: {str(pinned['gradio'].specifier)[2:]}\n" in readme


PAGE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"a Space has no {name}", name=name)

sys.meta_path.insert(0, Refuse())
from fastgan.app import build_demo
build_demo()
print("built")
"""


def test_the_page_needs_nothing_that_only_training_needs():
    extras = PROJECT["optional-dependencies"]
    only_training = {name for extra in ("train", "export", "metrics", "lpips") for name in named(extras[extra])}
    only_training -= named(extras["app"])
    assert {"accelerate", "datasets", "onnxruntime"} <= only_training
    modules = {name.replace("-", "_") for name in only_training - {"tqdm", "psutil"}}  # which others bring along
    assert run_python(PAGE % modules, without_hub(), ROOT) == "built\n"


def named(texts: list[str]) -> set[str]:
    return {Requirement(text).name for text in texts}


def test_a_space_is_pushed_in_one_commit_and_again(shared_hub, person, tmp_path):
    model = "tester/space-model"
    api = HfApi(endpoint=shared_hub.endpoint, token=shared_hub.token)
    save_model(Generator(ModelConfig(32, 32, z_dim=8, ngf=2)), tmp_path / "model")
    api.create_repo(model, private=True)
    shared_hub.git_push(model, {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()})
    for title in ("First", "Second"):
        answer = person.give("fastgan", "space", "create", "demo", "--model", model, "--title", title)
        assert answer.code == 0, answer.err
    assert f"Pushed {shared_hub.endpoint}/spaces/tester/demo (private), commit " in answer.out
    assert f"{model} is private: give the Space a secret HF_TOKEN" in answer.out
    assert len(api.list_repo_commits("tester/demo", repo_type="space")) == 3
    files = shared_hub.repo_files("tester/demo", "spaces")
    assert files["README.md"].startswith(b"---\ntitle: Second\n")
    info = api.space_info("tester/demo")
    assert (info.sdk, info.private, info.card_data["models"]) == ("gradio", True, [model])

    folder = tmp_path / "space"
    answer = person.give("fastgan", "space", "create", "demo", "--model", model, "--dry-run", folder)
    assert answer.out.startswith(f"Wrote {folder}: README.md, app.py, fastgan, requirements.txt\n")
    written = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert written == set(files) - {".gitattributes"}

    wrong = {
        "no such model": person.give("fastgan", "space", "create", "demo", "--model", "tester/absent"),
        "no Hub id": person.give("fastgan", "space", "create", "demo", "--model", 'x"); evil("'),
        "letters, digits": person.give("fastgan", "space", "create", "demo", "--model", model, "--title", "a: b"),
        "already there": person.give("fastgan", "space", "create", "demo", "--model", model, "--dry-run", folder),
    }
    for sentence, answer in wrong.items():
        assert answer.code == 2
        assert sentence in only_line(answer.err)


def test_a_space_that_wakes_while_the_hub_is_away_opens_all_the_same(tmp_path):
    hub_away = without_hub() | {"HF_HOME": str(tmp_path / "cache"), "SPACE_ID": "user/demo"}
    with app_running("user/fastgan-anime", env=hub_away, log=tmp_path / "log") as address:
        assert b"gradio-app" in urllib.request.urlopen(address).read()
    told = (tmp_path / "log").read_text()
    assert "the Hub can't be reached just now" in told and "HF_TOKEN" in told
    hub_away.pop("SPACE_ID")
    with pytest.raises(RuntimeError, match="the Hub can't be reached just now"):
        with app_running("user/fastgan-anime", env=hub_away, log=tmp_path / "log"):
            pass


# ---------------------------------------------------------------------- jobs


def inline_metadata() -> dict:
    [block] = re.findall(r"(?m)^# /// script\n((?:^#.*\n)+?)^# ///$", (ROOT / "train.py").read_text())
    return tomllib.loads("".join(line[2:] if line != "#" else "" for line in block.splitlines(keepends=True)))


def test_the_inline_metadata_of_train_py_agrees_with_the_project_and_with_requirements_txt():
    metadata = inline_metadata()
    assert metadata["requires-python"] == PROJECT["requires-python"]
    project = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["train"]
    assert sorted(metadata["dependencies"]) == sorted(project)
    app, train = requirements((ROOT / "requirements.txt").read_text()), requirements("\n".join(project))
    shared = app.keys() & train.keys()
    assert len(shared) > 5
    assert {name: app[name].specifier for name in shared} == {name: train[name].specifier for name in shared}


def test_train_py_is_a_job_that_brings_the_package_along():
    header = parse_uv_script_header((ROOT / "train.py").read_text())
    assert (header.volumes, header.env) == (["./fastgan:/code/fastgan"], {"PYTHONPATH": "/code"})
    assert header.secrets == ["HF_TOKEN"] and header.timeout


def test_train_py_alone_runs_with_the_package_on_the_path_as_a_job_has_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "data" / "train.py").write_bytes((ROOT / "train.py").read_bytes())
    (tmp_path / "code" / "fastgan").symlink_to(ROOT / "fastgan")
    done = subprocess.run(
        [sys.executable, "data/train.py", "--dataset", "user/emoji", "--dry-run"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "code")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"dataset": "user/emoji"' in done.stdout


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("user/2024", None),
        ("user/yes", None),
        ("user/m", "*Stars*"),
        ("user/m", "@home"),
        ("user/m", "- a"),
        ("user/m@v1", "'x"),
    ],
)
def test_any_name_makes_a_readme_that_reads_as_it_was_meant(model, title):
    readme = render_space(model, title)["README.md"].decode()
    front = yaml.safe_load(readme.split("---")[1])
    assert front["title"] == (title or model.partition("/")[2].capitalize())
    assert front["models"] == [model.partition("@")[0]] and isinstance(front["short_description"], str)
    assert f"(https://huggingface.co/{model.partition('@')[0]})" in readme
