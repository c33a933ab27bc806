import json

import numpy as np
import onnxruntime as ort
import pytest
import torch

from fastgan import Generator, ModelConfig, UserError, export
from fastgan.cli import main
from fastgan.hub import save_model
from fastgan.sampling import seeded_inputs
from tests.networks import anchors_at


def lively(**config) -> Generator:
    """A narrow generator with batch-norm statistics and noise of its own, so that pictures differ and fill [-1, 1]."""
    torch.manual_seed(0)
    generator = Generator(ModelConfig(z_dim=8, ngf=4, **config))
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith(("noise1.weight", "noise2.weight", "norm2.weight")):
                parameter.add_(0.3)
        for _ in range(20):
            generator(torch.randn(8, 8))
    return generator.eval()


@pytest.fixture(scope="module")
def generator() -> Generator:
    return lively(height=64, width=64, edge="replicate")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, generator):
    return export.export_onnx(generator, tmp_path_factory.mktemp("onnx"), name="user/faces")


def session(path):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def drawn(path, z, style_z, strength, noise) -> np.ndarray:
    feed = {"z": z, "style_z": style_z, "strength": strength, **{f"noise_{i}": x for i, x in enumerate(noise)}}
    return session(path).run(None, {name: x.numpy() for name, x in feed.items()})[0]


@pytest.mark.parametrize("count", [1, 5])
def test_onnxruntime_draws_the_same_pictures_in_batches_of_any_size(generator, exported, count):
    z, noise = seeded_inputs(generator, range(count))
    with torch.no_grad():
        expected = generator(z, noise=noise).full.numpy()
    assert expected.std() > 0.1
    full, half = (drawn(file.path, z, z, torch.ones(1), noise) for file in exported)
    assert np.abs(full - expected).max() < 1e-3
    assert np.abs(half - expected).max() < 0.05


def test_style_strength_and_noise_are_inputs_that_act_as_in_pytorch(generator, exported):
    z, noise = seeded_inputs(generator, [1])
    style_z, other_noise = seeded_inputs(generator, [2])
    path = exported[0].path
    pictures = []
    for style, strength, maps in (
        (z, 0.0, noise),
        (style_z, 1.0, noise),
        (style_z, 0.4, noise),
        (z, 0.0, other_noise),
    ):
        with torch.no_grad():
            expected = generator(z, style, strength, maps).full.numpy()
        pictures.append(drawn(path, z, style, torch.tensor([strength]), maps))
        assert np.abs(pictures[-1] - expected).max() < 1e-5
    for other in pictures[1:]:
        assert np.abs(pictures[0] - other).max() > 1e-3


def test_files_say_what_they_are_and_the_half_one_is_smaller(generator, exported):
    full, half = exported
    assert (full.path.name, half.path.name) == ("model.onnx", "model_fp16.onnx")
    assert full.size == full.path.stat().st_size
    assert half.size < 0.7 * full.size
    assert full.difference < 1e-3
    facts = session(full.path).get_modelmeta().custom_metadata_map
    assert json.loads(facts["config"]) == generator.config.to_dict()
    assert json.loads(facts["gates"]) == [64] and facts["model"] == "user/faces"
    shapes = {entry.name: entry.shape for entry in session(full.path).get_inputs()}
    assert shapes["z"] == ["batch", 8] and shapes["strength"] == [1]
    assert [shapes[f"noise_{i}"][2:] for i in range(4)] == [list(size) for size in generator.noise_sizes()]


def test_a_file_brings_the_anchors_that_latents_lie_around(generator, tmp_path):
    anchored = generator.anchored(anchors_at(torch.randn(3, 4)))
    [file] = export.export_onnx(anchored, tmp_path, [torch.float32])
    facts = session(file.path).get_modelmeta().custom_metadata_map
    torch.testing.assert_close(torch.tensor(json.loads(facts["anchors"])), anchored.anchors, atol=1e-4, rtol=0)
    assert json.loads(facts["config"])["spread"] == anchored.config.spread


def test_the_generator_stays_as_it_was(generator, exported):
    z, noise = seeded_inputs(generator, [0])
    with torch.no_grad():
        assert generator(z, noise=noise).full.isfinite().all()
    assert "to_full.parametrizations.weight.original" in generator.state_dict()
    assert generator.to_full.weight.dtype == torch.float32


def test_a_small_transparent_oblong_model_without_gates_is_exported_by_the_command(tmp_path, capsys):
    generator = lively(height=32, width=48, channels=4)
    save_model(generator, tmp_path / "faces")
    assert main(["export", str(tmp_path / "faces"), "--format", "onnx"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "model.onnx: 0." in said[0] and " MB; onnxruntime's pictures differ from PyTorch's by at most" in said[0]
    z, noise = seeded_inputs(generator, [7])
    file = session(tmp_path / "faces" / "model.onnx")
    assert "strength" not in {entry.name for entry in file.get_inputs()}
    feed = {"z": z.numpy(), **{f"noise_{i}": x.numpy() for i, x in enumerate(noise)}}
    with torch.no_grad():
        assert np.abs(file.run(None, feed)[0] - generator(z, noise=noise).full.numpy()).max() < 1e-3


def test_a_file_that_draws_other_pictures_is_not_written(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="onnxruntime's pictures differ by .* from PyTorch's; not written"):
        export.export_onnx(generator, tmp_path, dtypes=[torch.float32])
    assert not list(tmp_path.iterdir())


def test_a_hub_model_needs_a_place_to_go(capsys):
    assert main(["export", "user/faces"]) == 2
    assert "say where to: --out FOLDER" in capsys.readouterr().err
