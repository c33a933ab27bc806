import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import fastgan
from fastgan import Generator, ModelConfig
from fastgan.cli import main, train_parser
from fastgan.hub import save_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")
HUB = (ROOT / "docs" / "HUB.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_model(Generator(ModelConfig(32, 32, z_dim=8, ngf=4)), tmp_path / "runs" / "pictures")
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    assert len(list(tmp_path.glob("seed*.png"))) == 16
    assert (tmp_path / "mixed.png").exists()


def test_the_python_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    shutil.copytree(ROOT / "examples" / "emoji_faces", "pictures", ignore=lambda _, names: sorted(names)[8:])
    with Image.open(next(Path("pictures").glob("*.webp"))) as picture:
        picture.save("face.png")
    torch.manual_seed(0)
    save_model(Generator(ModelConfig(64, 64, z_dim=8, ngf=4)), Path("runs/pictures"))
    page = (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8")
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert len(names["pictures"]) == 16 and names["sheet"].size == (8 * 66 + 2, 2 * 66 + 2)
    assert names["found"].done == 20 and Path("walk.webp").exists()
    assert names["figures"].results and Path("my-model/model.safetensors").exists()


def test_what_the_package_offers_is_there_before_it_is_asked_for():
    assert {*fastgan.__all__, "sampling", "video"} <= set(dir(fastgan))
    assert fastgan.sampling.MAX_SEED and not hasattr(fastgan, "nothing")


def test_the_training_page_has_every_flag_and_no_other():
    flags = {flag for action in train_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    code = " ".join(re.findall(r"`[^`\n]*`|```.*?```", TRAINING, re.DOTALL))
    told = set(re.findall(r"--[a-z][a-z0-9-]+", code))
    opposites = {flag.replace("--no-", "--") for flag in flags if flag.startswith("--no-")}
    pairs = [{flag, flag.replace("--", "--no-")} for flag in opposites]
    assert len(pairs) > 3 and all(pair & told for pair in pairs)
    assert flags <= told.union(*pairs)
    elsewhere = {"--nproc-per-node", "--reestimate-batch-norm", "--multi", "--num", "--machine", "--main", "--cpu"}
    assert told - flags <= elsewhere


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_to_files_and_headings_of_the_repository(page):
    page = ROOT / page
    for target, heading in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"(?m)^#+ (.*)", path.read_text(encoding="utf-8"))
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_commands_of_the_hub_page_are_there_with_their_flags(capsys):
    lines = [line.partition("#")[0].split() for line in re.findall(r"(?m)^fastgan .*", README + HUB)]
    assert len(lines) > 8
    for _, *words in lines:
        names = words[:2] if words[0] in ("space", "dataset") else words[:1]
        with pytest.raises(SystemExit) as stop:
            main([*names, "--help"])
        told = capsys.readouterr().out
        assert stop.value.code == 0
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", told)), words
    training = {flag for action in train_parser()._actions for flag in action.option_strings}
    for line in re.findall(r"(?m)^(?:python|hf jobs uv run .*?|    )\s?train\.py .*", HUB):
        assert set(re.findall(r"--[a-z-]+", line.partition("train.py")[2])) <= training, line
