import copy
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fastgan import projection
from fastgan.anchors import Anchors
from fastgan.cli import main
from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.features import load_features
from fastgan.hub import save_model
from fastgan.projected import told_of
from fastgan.projection import decode_latent, encode_latent, noise_structure, open_picture, place_of, project
from fastgan.sampling import draw, seeded_inputs, to_pil
from tests.networks import anchors_at, lively_generator


@pytest.fixture(scope="module")
def generator():
    return lively_generator(ModelConfig(32, 32, z_dim=16, ngf=8, output_activation="tanh"))


@pytest.fixture(scope="module")
def searched(generator):
    picture = generator.sample([777])[0]
    return list(project(generator, picture, starts=6, keep=2, steps=24))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_search_comes_nearer_than_the_best_of_its_seeds(searched):
    best_seed, found = searched[5], searched[-1]
    assert [step.done for step in searched] == [0] * 6 + list(range(1, 25))
    assert found.perceptual < 0.8 * best_seed.perceptual
    assert best_seed.perceptual < found.by_chance


def test_what_is_shown_is_what_its_code_draws(generator, searched):
    found = searched[-1]
    z = decode_latent(encode_latent(found.z), 16)
    assert torch.equal(z, found.z)
    [image] = draw(generator, z[None], seeded_inputs(generator, [0])[1])
    assert torch.equal(image, found.image)
    difference = image.float() - found.target.float()
    assert found.pixel == pytest.approx(difference.square().mean().sqrt().item(), rel=1e-4)


def test_a_generator_in_half_precision_is_searched_too(generator):
    half = copy.deepcopy(generator).to(torch.bfloat16)
    *_, found = project(half, generator.sample([777])[0], starts=2, keep=1, steps=4)
    assert found.done == 4 and found.perceptual < found.by_chance


def test_the_generator_gathers_no_gradient_and_keeps_its_weights(generator, searched):
    assert all(parameter.grad is None and parameter.requires_grad for parameter in generator.parameters())


def test_a_model_with_anchors_is_asked_for_the_pictures_own_place(generator):
    network = load_features("efficientnet-lite0")
    pictures = torch.cat(list(draw(generator, torch.randn(6, 16), seeded_inputs(generator, range(6))[1]))) / 127.5 - 1
    anchors = Anchors.fit(told_of(pictures, network), z_dim=16)
    anchored = generator.anchored(anchors)
    place = place_of(anchored, pictures[3:4], network)
    torch.testing.assert_close(place[: anchors.seen.shape[1]], anchors.seen[3], atol=1e-3, rtol=0)
    assert not place[anchors.seen.shape[1] :].any() and len(place) == 16
    found = list(project(anchored, generator.sample([3])[0], starts=2, keep=1, steps=2))
    assert [step.done for step in found] == [0, 0, 0, 1, 2]
    assert found[2].by_chance == found[1].by_chance
    strange = generator.anchored(anchors_at(anchors.seen))
    assert place_of(generator, pictures[:1], network) is None and place_of(strange, pictures[:1], network) is None


def test_fitted_noise_stays_white(generator):
    picture = generator.sample([5])[0]
    *_, found = project(generator, picture, starts=2, keep=1, steps=16, fit_noise=True)
    for maps in found.noise:
        assert maps.mean().item() == pytest.approx(0, abs=1e-4)
        assert maps.std().item() == pytest.approx(1, abs=1e-3)
    start = seeded_inputs(generator, [0])[1]
    assert not torch.equal(found.noise[-1], start[-1])
    ramp = torch.linspace(-1.7, 1.7, 32).expand(1, 1, 32, 32)
    assert noise_structure(found.noise) < 0.1 * noise_structure([ramp])


def test_a_picture_of_another_shape_is_cut_to_the_models(generator):
    wide = Image.new("RGBA", (80, 40), "red")
    first = next(project(generator, wide, starts=1, keep=1, steps=1))
    assert first.target.shape == (1, 3, 32, 32)
    assert first.target[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("change", [{"starts": 0}, {"keep": 9, "starts": 8}, {"steps": 0}])
def test_numbers_that_make_no_sense_are_refused(generator, change):
    with pytest.raises(UserError, match="project"):
        next(project(generator, Image.new("RGB", (32, 32)), **change))


# ---------------------------------------------------------------------- pictures from strangers


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 10,000 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", bomb()])
def test_what_is_no_bearable_picture_is_refused_in_a_sentence(data):
    with pytest.raises(UserError, match="^Upload: "):
        open_picture(data, "Upload")


def test_too_many_bytes_or_pixels_are_refused_before_decoding(monkeypatch, tmp_path):
    data = png(Image.new("RGB", (64, 48)))
    assert open_picture(data, "Upload").size == (64, 48)
    monkeypatch.setattr(projection, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(UserError, match="64x48 pixels"):
        open_picture(data, "Upload")
    monkeypatch.setattr(projection, "MAX_BYTES", len(data) - 1)
    (tmp_path / "big.png").write_bytes(data)
    with pytest.raises(UserError, match="MiB"):
        open_picture(tmp_path / "big.png", "Upload")


def test_a_picture_that_ends_early_is_refused_in_a_sentence(generator):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    half = png(Image.fromarray(noise))[:4000]
    with pytest.raises(UserError, match="damaged"):
        next(project(generator, open_picture(half, "Upload"), starts=1, keep=1, steps=1))


def test_the_command_writes_picture_and_latent_and_says_how_near_they_came(generator, tmp_path, capsys):
    save_model(generator, tmp_path / "model")
    generator.sample([3])[0].save(tmp_path / "mine.png")
    out = tmp_path / "out" / "found.png"
    flags = ["--out", str(out), "--starts", "2", "--steps", "2"]
    assert main(["project", str(tmp_path / "model"), str(tmp_path / "mine.png"), *flags]) == 0
    said = capsys.readouterr().out
    assert "Perceptual distance" in said and str(out) in said
    tensors = load_file(out.with_suffix(".safetensors"))
    noise = [tensors[f"noise.{i}"] for i in range(len(generator.noise_sizes()))]
    [image] = draw(generator, tensors["z"][None], noise)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(to_pil(image[0])))
    assert Image.open(out).text["fastgan:seed"] == encode_latent(tensors["z"])


def test_the_command_refuses_what_is_no_picture(generator, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    assert main(["project", "user/model", str(tmp_path / "text.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_search_follows_gradients_as_adam_of_torch_does():
    torch.manual_seed(0)
    ours = [torch.randn(3, 4), torch.randn(5)]
    theirs = [part.clone().requires_grad_() for part in ours]
    mine, adam = projection._Adam(ours), torch.optim.Adam(theirs)
    for step in range(1, 6):
        adam.param_groups[0]["lr"] = 0.1 / step
        for part in theirs:
            part.grad = torch.randn_like(part)
        adam.step()
        mine.step([part.grad for part in theirs], 0.1 / step)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=0, atol=0)
