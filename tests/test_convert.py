import hashlib
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import HfApi
from numpy.random import RandomState
from safetensors.torch import load_file, save_file

import fastgan
from fastgan.cli import main
from fastgan.config import ModelConfig
from fastgan.convert import (
    DISCRIMINATOR_NAMES,
    GENERATOR_NAMES,
    _declared,
    _license_text,
    import_checkpoint,
    original_name,
    rename,
)
from fastgan.errors import UserError
from fastgan.finetune import open_base, settings_of
from fastgan.hub import load_weights
from fastgan.models import Discriminator, Generator, Images
from tests.commands import Person, without_hub
from tests.reference import DATA, deviation, formula_weights, golden, layout


@pytest.fixture(scope="module")
def networks():
    """Generator and discriminator at 256 pixels under the original's names, as golden_256 has them."""
    shapes = layout(256)
    seed = int(golden(256)["seed"])
    return formula_weights(shapes["generator"], seed), formula_weights(shapes["discriminator"], seed + 1)


@pytest.fixture(scope="module")
def trainer_checkpoint():
    """The checkpoint behind golden_all_100: its tensors follow from seeds, its average moved a fifth of the way."""
    shapes = layout(256)
    g, d = formula_weights(shapes["generator"], 300), formula_weights(shapes["discriminator"], 301)
    other = formula_weights(shapes["generator"], 350)
    averaged = [0.8 * g[key] + 0.2 * other[key] for key in shapes["generator_parameter_order"]]
    optimizer = {"state": {}, "param_groups": [{"lr": 2e-4, "betas": (0.5, 0.999), "params": [0, 1]}]}
    return {
        "g": parallel(g),
        "d": parallel(d),
        "g_ema": averaged,
        "opt_g": optimizer,
        "opt_d": optimizer,
    }


def parallel(state):
    return {f"module.{key}": tensor for key, tensor in state.items()}


def huggan(state):
    """The names that huggan/fastgan-few-shot-* repositories have."""
    renamed = {}
    for key, tensor in state.items():
        is_conv = key.endswith(("weight_orig", "weight_u", "weight_v"))
        parts = key.split(".")
        if parts[0] == "init":
            module = f"_init._layers.{parts[2]}"
        elif parts[0].startswith("feat_"):
            module = f"_upsample_{parts[0][5:]}._layers.{parts[1]}"
        elif parts[0].startswith("se_"):
            module = f"_sle_{parts[0][3:]}._layers.{parts[2]}"
        else:
            module = {"to_128": "_out_128.0", "to_big": "_out_1024.0"}[parts[0]]
        is_noise = parts[-1] == "weight" and tensor.numel() == 1
        renamed[f"{module}.{'_conv.' if is_conv else ''}{'_weight' if is_noise else parts[-1]}"] = tensor
    return renamed


def gantrain(state):
    def name(key):
        key = re.sub(r"^init\.init", "init.main", key)
        key = re.sub(r"^(se_\d+)\.main", r"\1.gate", key)
        return "_orig_mod." + re.sub(r"^to_128", "to_small", key)

    return {name(key): tensor for key, tensor in state.items()}


def parametrized(state):
    """Names as torch.nn.utils.parametrizations.spectral_norm leaves them."""

    def name(key):
        key = re.sub(r"weight_orig$", "parametrizations.weight.original", key)
        return re.sub(r"weight_([uv])$", r"parametrizations.weight.0._\1", key)

    return {name(key): tensor for key, tensor in state.items()}


def flat(content):
    """The tensors of a checkpoint as safetensors holds them: parts and keys joined by dots."""
    tensors = {}
    for part, value in content.items():
        if isinstance(value, torch.Tensor):
            tensors[part] = value
        elif isinstance(value, list | dict):
            entries = enumerate(value) if isinstance(value, list) else value.items()
            tensors |= {f"{part}.{key}": t for key, t in entries if isinstance(t, torch.Tensor)}
    return tensors


SETTINGS = {"nz": 32, "ngf": 8, "im_size": 256, "im_width": None, "pixelshuffle_from": 0, "mapping_depth": 0}
LAYOUTS = {
    "trainer": lambda g: {"g": g},
    "trainer, data parallel": lambda g: {"g": parallel(g)},
    "generator": lambda g: g,
    "generator, data parallel": lambda g: parallel(g),
    "huggan": lambda g: huggan(g),
    "gantrain": lambda g: {"g_ema": gantrain(g), "config": SETTINGS, "step": 100},
    "parametrized": lambda g: {"g": parametrized(g)},
    "huggan, parametrized": lambda g: parametrized(huggan(g)),
    "double precision": lambda g: {key: t.double() if t.is_floating_point() else t for key, t in g.items()},
}


def drawn(config, folder, z, step):
    generator = Generator(config).eval()
    load_weights(generator, folder / "model.safetensors")
    with torch.no_grad():
        return generator(torch.as_tensor(z, dtype=torch.float32)).full[:, :, ::step, ::step]


@pytest.mark.parametrize(
    "kind, form",
    [(kind, "pth") for kind in LAYOUTS]
    + [(kind, "safetensors") for kind in ("trainer, data parallel", "huggan", "gantrain")],
)
def test_every_layout_draws_what_the_original_drew(kind, form, networks, tmp_path):
    content, stored, source = LAYOUTS[kind](networks[0]), golden(256), tmp_path / f"100.{form}"
    torch.save(content, source) if form == "pth" else save_file(flat(content), source)
    done = import_checkpoint(str(source), tmp_path / "model")
    assert done.config == ModelConfig(256, 256, 3, z_dim=32, ngf=8)
    assert deviation(drawn(done.config, tmp_path / "model", stored["z"], 8), stored["image"]) < 1e-4
    assert sorted(done.files) == sorted(path.name for path in (tmp_path / "model").iterdir())


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_size_widths_and_activation_follow_from_the_shapes(size, tmp_path):
    shapes, stored = layout(size), golden(size)
    torch.save(formula_weights(shapes["generator"], int(stored["seed"])), tmp_path / "g.pth")
    done = import_checkpoint(str(tmp_path / "g.pth"), tmp_path / "model")
    activation = "tanh" if size == 1024 else "none"
    assert done.config == ModelConfig(size, size, 3, shapes["nz"], shapes["ngf"], activation)
    assert deviation(drawn(done.config, tmp_path / "model", stored["z"], size // 32), stored["image"]) < 1e-4


@pytest.mark.parametrize(
    "weights, expected, form",
    [(None, "ema", "pth"), ("ema", "ema", "pth"), ("raw", "raw", "pth"), (None, "ema", "safetensors")],
)
def test_a_whole_checkpoint_gives_its_averaged_or_its_raw_generator(
    weights, expected, form, trainer_checkpoint, tmp_path
):
    source = tmp_path / f"all_100.{form}"
    content = {part: value for part, value in trainer_checkpoint.items() if part != "d"}
    torch.save(content, source) if form == "pth" else save_file(flat(content), source)
    done = import_checkpoint(str(source), tmp_path / "model", weights=weights)
    with np.load(DATA / "golden_all_100.npz") as stored:
        assert deviation(drawn(done.config, tmp_path / "model", stored["z"], 8), stored[expected]) < 1e-4
    assert done.facts["weights"] == expected


@pytest.mark.parametrize("spelling", [parallel, parametrized])
def test_the_discriminator_comes_along_and_judges_as_it_did(spelling, networks, tmp_path):
    g, d = networks
    torch.save({"g": spelling(g), "d": spelling(d)}, tmp_path / "100.pth")
    done = import_checkpoint(str(tmp_path / "100.pth"), tmp_path / "model")
    discriminator = Discriminator(done.config, ndf=8).eval()
    load_weights(discriminator, tmp_path / "model" / "training" / "discriminator.safetensors")
    settings = settings_of(open_base(str(tmp_path / "model")))
    assert (settings["recipe"], settings["ndf"]) == ("paper", 8)
    stored = golden(256)
    noise = RandomState(int(stored["seed"]) + 3).standard_normal((2, 3, 256, 256))
    full = torch.tanh(torch.as_tensor(noise, dtype=torch.float32))
    with torch.no_grad():
        logits, _ = discriminator(Images(full, F.interpolate(full, size=128, mode="nearest")))
    assert deviation(torch.cat([part.flatten() for part in logits]), stored["d_fake"]) < 1e-4


def test_a_discriminator_of_another_build_is_left_out_with_a_remark(networks, tmp_path):
    g, d = networks
    torch.save({"g": g, "d": {key: t for key, t in d.items() if "se_" not in key}}, tmp_path / "100.pth")
    done = import_checkpoint(str(tmp_path / "100.pth"), tmp_path / "model")
    assert not (tmp_path / "model" / "training").exists()
    assert any("left out" in remark and "se_2_16.main.1.weight_orig" in remark for remark in done.remarks)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_declared_order_and_names_agree_with_the_original(size):
    shapes = layout(size)
    order = shapes["generator_parameter_order"]
    assert sorted(sorted(order), key=_declared) == order
    assert [key for key in shapes["generator"] if key.endswith(("weight", "weight_orig", "bias"))] == order
    for names, network in ((GENERATOR_NAMES, "generator"), (DISCRIMINATOR_NAMES, "discriminator")):
        for key in shapes[network]:
            assert original_name(rename(key, names), names) == key


def small_state():
    """The original's names for a generator of 64 pixels, as small as one gets."""
    torch.manual_seed(0)
    generator = Generator(ModelConfig(64, 64, z_dim=4, ngf=1))
    return {original_name(key, GENERATOR_NAMES): tensor for key, tensor in generator.state_dict().items()}


def test_batch_norm_is_measured_afresh_only_when_asked(tmp_path):
    state, source = small_state(), tmp_path / "g.pth"
    torch.save(state, source)
    kept = import_checkpoint(str(source), tmp_path / "kept")
    fresh = import_checkpoint(str(source), tmp_path / "fresh", reestimate=True)
    assert any("--reestimate-batch-norm" in remark for remark in kept.remarks)
    assert not any("--reestimate-batch-norm" in remark for remark in fresh.remarks)
    assert (kept.facts["batch_norm_reestimated"], fresh.facts["batch_norm_reestimated"]) == (False, True)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "fresh"))
    for name, tensor in state.items():
        ours = rename(name, GENERATOR_NAMES)
        assert torch.equal(before[ours], tensor)
        if name.endswith(("running_mean", "running_var")):
            assert not torch.allclose(after[ours], tensor)
        elif name.endswith(("weight", "weight_orig", "bias")):
            assert torch.equal(after[ours], tensor)


def test_the_facts_name_the_source_without_its_path(tmp_path):
    source = tmp_path / "someone" / "100.pth"
    source.parent.mkdir()
    torch.save(small_state(), source)
    done = import_checkpoint(str(source), tmp_path / "model", license="mit")
    text = (tmp_path / "model" / "import.json").read_text()
    assert (
        json.loads(text)
        == done.facts
        == {
            "source": "100.pth",
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "license": "mit",
            "layout": "original FastGAN generator",
            "weights": "as stored",
            "batch_norm_reestimated": False,
        }
    )
    assert str(tmp_path) not in text and "someone" not in text


# ---------------------------------------------------------------------- refusals


def refused(source, tmp_path, **options):
    """The sentence with which an import is refused; nothing is written."""
    with pytest.raises(UserError) as caught:
        import_checkpoint(str(source), tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(content, tmp_path, name="model.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def test_lightweight_gan_is_refused_by_name(tmp_path):
    state = {f"{part}.layers.0.weight": torch.zeros(1) for part in ("G", "D", "GE", "D_aug")}
    whole = {"GAN": state, "version": "0.20.0", "G_scaler": {}, "D_scaler": {}}
    assert "lightweight-gan" in refused(saved(whole, tmp_path), tmp_path)
    assert "lightweight-gan" in refused(saved(state, tmp_path, "pytorch_model.bin"), tmp_path)
    save_file(flat(state), tmp_path / "model.safetensors")
    assert "lightweight-gan" in refused(tmp_path / "model.safetensors", tmp_path)


def test_projected_gan_and_stylegan_are_refused_by_name(tmp_path):
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"G_ema": None}))
    assert "projected-gan" in refused(tmp_path / "network.pkl", tmp_path)
    state = {"synthesis.feat_8.1.weight_orig": torch.zeros(1), "mapping.fc.weight": torch.zeros(1)}
    assert "projected-gan" in refused(saved(state, tmp_path), tmp_path)


def test_nnabla_is_refused_by_name(tmp_path):
    for name, content in (("GenIter100000.h5", b""), ("renamed.pth", b"\x89HDF\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content)
        assert "nnabla" in refused(tmp_path / name, tmp_path)


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["beside", "inside", "alone"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(place, zipped, networks, tmp_path):
    mark, source = tmp_path / "it-ran", tmp_path / "all_100.pth"
    content = {
        "beside": {"g": networks[0], "opt_g": Harmful(mark)},
        "inside": {**networks[0], "to_big.weight_orig": Harmful(mark)},
        "alone": Harmful(mark),
    }[place]
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    assert "never opens a pickle that could run code" in refused(source, tmp_path)
    source.write_bytes(pickle.dumps(content, protocol=2))
    assert re.search("pickle that could run code|not a whole", refused(source, tmp_path))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Harmful(mark)))
    assert mark.exists()  # so the file would have done it


def test_damaged_files_are_refused_in_a_sentence(networks, tmp_path):
    whole = saved(networks[0], tmp_path).read_bytes()
    save_file(networks[0], tmp_path / "whole.safetensors")
    for content in (whole[:-1000], whole[:1000], b"\x80\x02", (tmp_path / "whole.safetensors").read_bytes()[:-9]):
        (tmp_path / "part.pth").write_bytes(content)
        assert "not a whole" in refused(tmp_path / "part.pth", tmp_path)
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html><html></html>"):
        (tmp_path / "part.pth").write_bytes(content)
        assert "downloaded whole" in refused(tmp_path / "part.pth", tmp_path)


def test_a_compressed_archive_is_not_opened(networks, tmp_path):
    with zipfile.ZipFile(saved(networks[0], tmp_path)) as stored:
        with zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small:
            for name in stored.namelist():
                small.writestr(name, stored.read(name))
    assert "compressed" in refused(tmp_path / "small.pth", tmp_path)


def test_a_small_file_that_claims_a_large_network_is_refused(networks, tmp_path):
    state = {key: torch.zeros(1).expand(t.shape) if t.ndim == 4 else t for key, t in networks[0].items()}
    assert "more numbers than the file holds" in refused(saved(state, tmp_path), tmp_path)


def test_what_claims_more_than_memory_holds_is_refused_before_it_is_looked_at(networks, tmp_path):
    key = next(key for key, tensor in networks[0].items() if tensor.ndim == 4)
    state = {**networks[0], key: torch.zeros(1, 1).expand(10**7, 10**6)}
    assert "more numbers than the file holds" in refused(saved(state, tmp_path), tmp_path)


def test_an_unknown_layout_says_which_keys_are_missing_and_unknown(networks, tmp_path):
    message = refused(saved({f"conv{n}.weight": torch.zeros(1) for n in range(6)}, tmp_path), tmp_path)
    assert "missing init.init.0.weight_orig, to_big.weight_orig;" in message
    assert message.endswith("unknown conv0.weight, conv1.weight, conv2.weight, conv3.weight and 2 more")
    state = dict(networks[0])
    state["feat_8.9.weight"] = state.pop("feat_16.2.running_var")
    message = refused(saved({"g": state}, tmp_path), tmp_path)
    assert message.endswith("missing feat_16.2.running_var; unknown feat_8.9.weight")


G_CHANGES = {
    "shape": (lambda g: g.update({"feat_8.3.bias": torch.zeros(3)}), r"feat_8\.3\.bias is float32 \[3\].*\[128\]"),
    "integers": (lambda g: g.update({"feat_8.3.bias": torch.zeros(128, dtype=torch.long)}), "feat_8.3.bias is int64"),
    "channels": (lambda g: g.update({"to_big.weight_orig": torch.zeros(2, 4, 3, 3)}), "channels: expected 1"),
    "widths": (lambda g: g.update({"init.init.0.weight_orig": torch.zeros(32, 40, 4, 4)}), "32 ngf"),
    "not square": (lambda g: g.update({"init.init.0.weight_orig": torch.zeros(32, 256, 4, 6)}), "init.init.0"),
    "size": (lambda g: g.update({"feat_300.1.weight_orig": torch.zeros(1)}), "size 300x300"),
    "no tensor": (lambda g: g.update({"feat_8.3.bias": 0.5}), "feat_8.3.bias is no ordinary tensor"),
    "sparse": (lambda g: g.update({"feat_8.3.bias": torch.zeros(128).to_sparse()}), "no ordinary tensor"),
    "twice": (lambda g: g.update({"module.feat_8.3.bias": torch.zeros(128)}), "feat_8.3.bias twice"),
}


@pytest.mark.parametrize("change", G_CHANGES)
def test_a_generator_that_does_not_fit_is_refused(change, networks, tmp_path):
    state = dict(networks[0])
    apply, sentence = G_CHANGES[change]
    apply(state)
    assert re.search(sentence, refused(saved({"g": state}, tmp_path), tmp_path))


@pytest.mark.parametrize(
    "averaged, sentence",
    [
        (lambda tensors: tensors[:-1], "43 tensors for the 44 parameters"),
        (lambda tensors: [*tensors[1:], tensors[0]], r"g_ema\[0\] is .* init\.init\.0\.weight_orig"),
        (lambda tensors: [None] * 44, "no ordinary tensor"),
        (lambda tensors: 7, "expected a list of tensors"),
    ],
    ids=["short", "another order", "empty", "number"],
)
def test_an_average_that_does_not_fit_is_refused(averaged, sentence, trainer_checkpoint, tmp_path):
    content = {"g": trainer_checkpoint["g"], "g_ema": averaged(trainer_checkpoint["g_ema"])}
    assert re.search(sentence, refused(saved(content, tmp_path), tmp_path))


@pytest.mark.parametrize(
    "setting", [{"im_width": 384}, {"pixelshuffle_from": 128}, {"mapping_depth": 2}, {"ngf": 64}, {"im_size": 512}]
)
def test_gantrain_settings_that_fastgan_lacks_are_refused(setting, networks, tmp_path):
    content = {"g_ema": gantrain(networks[0]), "config": {**SETTINGS, **setting}}
    assert next(iter(setting)) in refused(saved(content, tmp_path), tmp_path)


def test_weights_that_the_file_does_not_have_are_refused(networks, tmp_path):
    assert "no g_ema" in refused(saved({"g": networks[0]}, tmp_path), tmp_path, weights="ema")
    averaged_only = saved({"g_ema": gantrain(networks[0]), "config": SETTINGS}, tmp_path)
    assert "averaged weights only" in refused(averaged_only, tmp_path, weights="raw")


def test_sources_that_are_no_file_are_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    assert "name the checkpoint file" in refused(tmp_path / "folder", tmp_path)
    assert "no such file" in refused(tmp_path / "absent.pth", tmp_path)
    assert "user/repo:all_50000.pth" in refused("user/repo", tmp_path)
    assert "no Hub id" in refused("user/..repo:x.pth", tmp_path)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    source, out = saved(small_state(), tmp_path), tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        import_checkpoint(str(source), out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    import_checkpoint(str(source), out)
    assert fastgan.from_pretrained(out).config == ModelConfig(64, 64, z_dim=4, ngf=1)


# ---------------------------------------------------------------------- the command, and the Hub


def test_the_command_says_what_it_wrote_and_what_to_do_next(tmp_path, capsys):
    source, out = saved(small_state(), tmp_path), tmp_path / "out"
    assert main(["import", str(source), str(out), "--license", "mit"]) == 0
    printed = capsys.readouterr().out
    assert "Read model.pth (original FastGAN generator, weights as stored): 64x64" in printed
    assert f"Wrote {out}: config.json, model.safetensors, import.json\n" in printed
    assert "--reestimate-batch-norm" in printed
    assert printed.endswith(f"Next: fastgan sample {out} --grid samples.png\n")
    assert main(["import", str(source), str(out)]) == 2
    assert capsys.readouterr().err == f"error: {out}: already there; choose a new folder\n"


def test_a_file_on_the_hub_brings_its_commit_and_its_licence(hub, tmp_path):
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    state = small_state()
    commits = {}
    for name, card in (("licensed", "---\nlicense: mit\n---\n# A model\n"), ("bare", ""), ("odd", "---\n{[\n---\n")):
        api.create_repo(f"tester/{name}", private=name == "bare")
        files = {"sub/100.pth": saved(state, tmp_path).read_bytes(), "README.md": card.encode()}
        # By git: the client has the Hub check a card first, but git lets an odd one in.
        commits[name] = hub.git_push(f"tester/{name}", {path: content for path, content in files.items() if content})
    api.upload_file(path_or_fileobj=b"gone", path_in_repo="sub/100.pth", repo_id="tester/licensed")
    api.create_repo("tester/large")
    api.upload_file(path_or_fileobj=b"small", path_in_repo="100.pth", repo_id="tester/large")
    hub.announce("tester/large", "100.pth", 100 * 2**30)
    hub.fail("tester/broken", 500, times=None)
    calls = [
        ["tester/licensed:sub/100.pth", "licensed", "--revision", commits["licensed"]],
        ["tester/bare:sub/100.pth", "bare"],
        ["tester/odd:sub/100.pth", "odd"],
        ["tester/odd:sub/100.pth", "given", "--license", "cc-by-4.0"],
        ["tester/odd:absent.pth", "no"],
        ["tester/absent:sub/100.pth", "no"],
        ["tester/odd:sub/100.pth", "no", "--revision", "absent"],
        ["tester/large:100.pth", "no"],
        ["tester/broken:100.pth", "no"],
    ]
    with Person(hub.env(tmp_path / "home")) as person:
        answers = [person.give("fastgan", "import", *call, folder=tmp_path) for call in calls]
    assert [answer.code for answer in answers] == [0, 0, 0, 0, 2, 2, 2, 2, 2], answers
    for name, license in (("licensed", "mit"), ("bare", "unknown"), ("odd", "unknown"), ("given", "cc-by-4.0")):
        facts = json.loads((tmp_path / name / "import.json").read_text())
        repo = "odd" if name == "given" else name
        assert facts["source"] == f"tester/{repo}:sub/100.pth"
        assert (facts["revision"], facts["license"]) == (commits[repo], license)
    sentences = [answer.err.strip() for answer in answers[4:]]
    assert not any(answer.out for answer in answers[4:])
    assert sentences[0] == "error: tester/odd:absent.pth: the model has no file absent.pth"
    assert "no such model" in sentences[1]
    assert "has no revision absent" in sentences[2]
    assert "announces 107,374,182,400 bytes" in sentences[3]
    assert "error: tester/broken:100.pth:" in sentences[4] and "\n" not in sentences[4]
    assert not (tmp_path / "no").exists()
    assert not hub.seen("GET /tester/large")


def test_a_connection_that_breaks_and_an_odd_licence_are_no_traceback(hub, tmp_path):
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("tester/breaks")
    files = {"100.pth": saved(small_state(), tmp_path).read_bytes(), "README.md": b"---\nlicense: 3\n---\n"}
    hub.git_push("tester/breaks", files)
    with Person(hub.env(tmp_path / "home")) as person:
        answer = person.give("fastgan", "import", "tester/breaks:100.pth", "whole", folder=tmp_path)
    assert answer.code == 0 and json.loads((tmp_path / "whole" / "import.json").read_text())["license"] == "3"
    hub.cut("GET .*100.pth", after=1000, times=None)
    with Person(hub.env(tmp_path / "new home")) as person:
        answer = person.give("fastgan", "import", "tester/breaks:100.pth", "out", folder=tmp_path)
    assert answer.code == 2 and "could not be fetched whole" in answer.err and not (tmp_path / "out").exists()


def test_a_hub_out_of_reach_is_one_sentence(tmp_path):
    with Person(without_hub() | {"HF_HOME": str(tmp_path / "home")}) as person:
        answer = person.give("fastgan", "import", "tester/model:100.pth", "out", folder=tmp_path)
    assert answer.code == 2
    assert "can't be reached" in answer.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        (None, "unknown"),
        ("mit", "mit"),
        (["mit", "other"], "mit, other"),
        ({"a": 1}, "unknown"),
        ([["mit"]], "unknown"),
    ],
)
def test_a_licence_is_a_few_plain_words_or_unknown(stated, text):
    assert _license_text(stated) == text


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    state = small_state()
    next(iter(state.values())).fill_(torch.nan)
    assert "not finite" in refused(saved(state, tmp_path), tmp_path)
