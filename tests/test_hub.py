import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastgan
from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.hub import save_model, write_file, write_folder
from fastgan.models import Generator

TINY = ModelConfig(64, 64, z_dim=16, ngf=4)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_model(Generator(TINY).eval(), tmp_path / "model")
    return tmp_path / "model"


def test_saved_and_loaded_generators_are_equal_to_the_last_bit(folder):
    torch.manual_seed(0)
    saved, loaded = Generator(TINY).eval(), fastgan.from_pretrained(folder)
    assert not loaded.training
    assert loaded.config == TINY
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert saved.sample([3])[0].tobytes() == loaded.sample([3])[0].tobytes()


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


NAME = "to_full.parametrizations.weight.original"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(NAME),
        lambda t: t.update(extra=torch.zeros(1)),
        lambda t: t.update({NAME: t[NAME][:1].clone()}),
        lambda t: t.update({NAME: t[NAME].half()}),
    ],
    ids=["missing", "extra", "shape", "type"],
)
def test_weights_that_do_not_match_the_config_are_refused(folder, change):
    rewrite(folder, change)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        fastgan.from_pretrained(folder)


def test_a_truncated_file_is_refused_in_a_sentence(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        fastgan.from_pretrained(folder)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        fastgan.from_pretrained(folder)


def test_a_config_that_asks_for_a_billion_channels_is_refused_before_memory_is_spent(folder):
    (folder / "config.json").write_text(json.dumps({**TINY.to_dict(), "ngf": 10**9}))
    with pytest.raises(UserError, match="ngf"):
        fastgan.from_pretrained(folder)


@pytest.mark.parametrize("model", ["no/such/folder", "../secrets", "not a model", "/etc"])
def test_what_is_neither_folder_nor_id_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        fastgan.from_pretrained(model)


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").write_text("old")
    (tmp_path / "file").write_text("old")

    def fail(path):
        if path.is_dir():
            (path / "half").write_text("half")
        else:
            path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_folder(tmp_path / "kept", fail)
    with pytest.raises(UserError, match="No space left"):
        write_file(tmp_path / "file", fail)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept", "old"]
    assert (tmp_path / "file").read_text() == "old"
