"""Runs of a second or two, and what tests ask of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastgan import TrainConfig
from fastgan.checkpoints import checkpoints_in
from fastgan.cli import train_main
from tests.commands import ROOT

TINY = "--recipe paper --batch-size 8 --size 32 --ngf 4 --ndf 4 --z-dim 16 --eval-images 0".split()
TINY += ["--mixed-precision", "no", "--log-every", "0.008kimg"]
GROWING = {"recipe": "projected", "size": "128", "grow_from": 32}


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny(tmp_path, cache_dir, pictures):
    """Settings of a run that takes a second or two."""

    def make(name="run", **changes) -> TrainConfig:
        settings = {
            "recipe": "paper",
            "dataset": pictures,
            "cache_dir": cache_dir,
            "size": "32",
            "ngf": 4,
            "ndf": 4,
            "z_dim": 16,
            "mixed_precision": "no",
            "eval_images": 0,
            "max_steps": 4,
            "log_every": "0.008kimg",
            "output_dir": str(tmp_path / name),
        }
        return TrainConfig(**{**settings, **changes})

    return make


def newest(run: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint and of its model, by file and name."""
    files = [Path(run) / "model.safetensors", *checkpoints_in(Path(run) / "checkpoints")[-1].glob("*.safetensors")]
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def refusal(capsys, *arguments: str) -> str:
    """The one line that train.py says, exit code 2 included."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert train_main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]
