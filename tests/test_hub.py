import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastgan
from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.files import write_file, write_folder
from fastgan.hub import save_model
from fastgan.models import Generator
from tests.commands import ROOT, only_line, run_python

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


# ---------------------------------------------------------------------- over HTTP


@pytest.fixture
def hub(shared_hub):
    yield shared_hub
    shared_hub.heal()


@pytest.fixture
def on_hub(hub, folder):
    """Makes a repository of the files of a good model with some changed; None takes one away."""
    from huggingface_hub import HfApi

    def make(changes=None, name=None):
        files = {path.name: path.read_bytes() for path in folder.iterdir()} | (changes or {})
        repo = f"{hub.user}/{name or 'model-' + str(len(hub.storage.list('models')))}"
        HfApi(endpoint=hub.endpoint, token=hub.token).create_repo(repo, private=True)
        hub.git_push(repo, {path: content for path, content in files.items() if content is not None})
        return repo

    return make


LOAD = """
import fastgan
from fastgan import FastGANGenerator
repo, empty = {repo!r}, {empty!r}
a = fastgan.from_pretrained(repo, cache_dir=empty, revision={commit!r}, token={token!r})
b = FastGANGenerator.from_pretrained(repo, cache_dir=empty, local_files_only=True, revision={commit!r})
assert type(a) is type(b) is FastGANGenerator and not a.training
print(a.sample([3])[0].tobytes() == b.sample([3])[0].tobytes(), a.config == b.config)
try:
    fastgan.from_pretrained(repo, cache_dir=empty + "2", local_files_only=True)
except fastgan.UserError as error:
    print(error)
"""


def test_a_private_model_loads_by_both_names_and_again_without_the_hub(hub, on_hub, tmp_path):
    from huggingface_hub import HfApi

    repo = on_hub()
    commit = HfApi(endpoint=hub.endpoint, token=hub.token).model_info(repo).sha
    code = LOAD.format(repo=repo, empty=str(tmp_path / "empty"), commit=commit, token=hub.read_token)
    printed = run_python(code, hub.env(tmp_path / "home", ""), tmp_path).splitlines()
    assert printed[0] == "True True"
    assert "not in the cache" in printed[1]


def test_a_cached_model_is_drawn_with_while_the_hub_is_away(hub, on_hub, person, tmp_path):
    repo = on_hub()
    assert person.give("fastgan", "sample", repo, "--out", tmp_path / "a", "--seeds", "3").code == 0
    hub.fail(".", 503, times=None)
    answer = person.give("fastgan", "sample", repo, "--out", tmp_path / "b", "--seeds", "3")
    assert answer.code == 0, answer.err
    assert (tmp_path / "a" / "seed0003.png").read_bytes() == (tmp_path / "b" / "seed0003.png").read_bytes()


def config_with(**changes) -> bytes:
    return json.dumps({**TINY.to_dict(), **changes}).encode()


HOSTILE = {
    "no config": ({"config.json": None}, "has no config.json"),
    "no weights": ({"model.safetensors": None}, "nothing but safetensors"),
    "pickles only": ({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."}, "nothing but safetensors"),
    "no json": ({"config.json": b"\x00\x01"}, "not readable as JSON"),
    "a list": ({"config.json": b"[]"}, "not a fastgan model"),
    "another library": ({"config.json": b'{"model_type": "bert"}'}, "not a fastgan model"),
    "unknown field": ({"config.json": config_with(auto_map={"AutoModel": "code.py"})}, "unknown field auto_map"),
    "absurd size": ({"config.json": config_with(height=10**6, width=10**6)}, "height"),
    "absurd width": ({"config.json": config_with(ngf=10**9)}, "ngf"),
    "a newer format": ({"config.json": config_with(format_version=99)}, "newer fastgan"),
    "other shapes": ({"config.json": config_with(ngf=8)}, "the config says"),
    "no safetensors": ({"model.safetensors": b"<!doctype html>"}, "not a whole safetensors file"),
    "long header": ({"model.safetensors": b"\xff" * 8 + b"{" * 100}, "not a whole safetensors file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_repository_that_is_no_good_is_refused_in_a_sentence(case, on_hub, person, tmp_path):
    changes, sentence = HOSTILE[case]
    repo = on_hub(changes, case.replace(" ", "-"))
    answer = person.give("fastgan", "sample", repo, "--grid", tmp_path / "grid.png")
    assert answer.code == 2
    assert sentence in only_line(answer.err)
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_hundred_gigabytes_are_refused_before_a_byte_is_fetched(file, hub, on_hub, person, tmp_path):
    repo = on_hub()
    hub.announce(repo, file, 100 * 2**30)
    answer = person.give("fastgan", "sample", repo, "--grid", tmp_path / "grid.png")
    assert "announces 107,374,182,400 bytes of " + file in only_line(answer.err)
    assert not hub.seen(f"GET /{repo}/resolve/[^/]*/{file}")


def test_wrong_names_and_strangers_are_refused(on_hub, person, tmp_path):
    repo, grid = on_hub(), ["--grid", tmp_path / "grid.png"]
    assert "no such model" in only_line(person.give("fastgan", "sample", "tester/absent", *grid).err)
    assert "no such model" in only_line(person.give("fastgan", "sample", repo, *grid, token="").err)
    answer = person.give("fastgan", "sample", repo, "--revision", "absent", *grid)
    assert "no such branch" in only_line(answer.err)


SILENT = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as silent:
    import os
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
    import httpx2
    from huggingface_hub import HfApi
    from fastgan import hub
    hub.SILENCE = 0.5
    hub.limit_silence()
    try:
        HfApi().whoami(token="hf_x")
    except httpx2.TimeoutException:
        print("gave up")
"""


def test_a_hub_that_never_answers_is_given_up():
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout == "gave up\n", done.stderr


def test_a_name_that_is_nowhere_is_said_in_whole_sentences(tmp_path):
    with pytest.raises(UserError) as refusal:
        fastgan.from_pretrained("user/nowhere", cache_dir=tmp_path, local_files_only=True)
    assert str(refusal.value).endswith("check the connection. There is no folder of that name here either")


def test_a_model_in_half_precision_is_saved_whole(folder, tmp_path):
    fastgan.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    assert next(fastgan.from_pretrained(tmp_path / "half").parameters()).dtype == torch.float32


def test_devices_and_types_may_be_named(folder):
    generator = fastgan.from_pretrained(folder, device="auto", dtype="bfloat16")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert generator.device.type == (accelerator or torch.device("cpu")).type
    assert generator.dtype == next(generator.parameters()).dtype == torch.bfloat16


def test_a_folder_has_no_revision(folder):
    with pytest.raises(UserError, match="a folder, which has no revision v1"):
        fastgan.from_pretrained(folder, revision="v1")
