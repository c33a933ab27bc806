import itertools

import pytest
import torch
import torch.nn.functional as F
from numpy.random import RandomState

from fastgan.config import ModelConfig
from fastgan.convert import DISCRIMINATOR_NAMES, GENERATOR_NAMES, load_original
from fastgan.models import Discriminator, Generator, Images, quadrant_of
from tests.reference import deviation, formula_weights, golden, layout


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_generator_draws_what_the_original_drew(size):
    shapes, stored = layout(size), golden(size)
    activation = "tanh" if size == 1024 else "none"
    generator = Generator(ModelConfig(size, size, 3, shapes["nz"], shapes["ngf"], activation)).eval()
    load_original(generator, formula_weights(shapes["generator"], int(stored["seed"])), GENERATOR_NAMES)
    with torch.no_grad():
        images = generator(torch.as_tensor(stored["z"], dtype=torch.float32))
    step = size // 32
    assert deviation(images.full[:, :, ::step, ::step], stored["image"]) < 1e-4
    assert deviation(images.small[:, :, ::4, ::4], stored["image_128"]) < 1e-4
    assert images.full.mean().item() == pytest.approx(stored["image_mean"].item(), abs=1e-4)
    assert images.full.std().item() == pytest.approx(stored["image_std"].item(), rel=1e-4)


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_discriminator_judges_and_redraws_as_the_original_did(size):
    shapes, stored = layout(size), golden(size)
    seed = int(stored["seed"])
    discriminator = Discriminator(ModelConfig(size, size, 3, shapes["nz"], shapes["ngf"]), ndf=shapes["ngf"]).eval()
    load_original(discriminator, formula_weights(shapes["discriminator"], seed + 1), DISCRIMINATOR_NAMES)
    full = torch.tanh(torch.as_tensor(RandomState(seed + 3).standard_normal((2, 3, size, size)), dtype=torch.float32))
    images = Images(full, F.interpolate(full, size=128, mode="nearest"))
    with torch.no_grad():
        fake_logits, nothing = discriminator(images)
        real_logits, redrawn = discriminator(images, quadrant=1)
    assert nothing is None
    assert deviation(torch.cat([part.flatten() for part in fake_logits]), stored["d_fake"]) < 1e-4
    assert deviation(torch.cat([part.flatten() for part in real_logits]), stored["d_real"]) < 1e-4
    assert deviation(redrawn.whole[:, :, ::4, ::4], stored["rec_big"]) < 1e-4
    assert deviation(redrawn.small[:, :, ::4, ::4], stored["rec_small"]) < 1e-4
    assert deviation(redrawn.quadrant[:, :, ::4, ::4], stored["rec_part"]) < 1e-4


SHAPES = list(itertools.product((32, 64, 128, 256, 512), (False, True), (1, 3, 4)))


@pytest.mark.parametrize(("level", "wide", "channels"), [*SHAPES, (1024, False, 3), (2048, False, 3)])
def test_every_size_and_channel_count_is_drawn_and_judged(level, wide, channels):
    config = ModelConfig(level, level * 3 // 2 if wide else level, channels, z_dim=8, ngf=1)
    generator, discriminator = Generator(config), Discriminator(config, ndf=1)
    with torch.no_grad():
        images = generator(torch.randn(2, 8))
        logits, redrawn = discriminator(images, quadrant=2)
    assert images.full.shape == (2, channels, config.height, config.width)
    assert images.small.shape == (2, channels, *config.size_at(config.small_level))
    assert logits.full.shape == logits.small.shape == (2, 1, 5, 9 if wide else 5)
    for picture in redrawn:
        assert picture.shape == (2, channels, *config.size_at(min(level, 128)))


def sharp_generator(level: int = 256, **changes) -> tuple[Generator, list[torch.Tensor]]:
    """A generator with noise switched on and noise for it, for two latents."""
    torch.manual_seed(0)
    generator = Generator(ModelConfig(level, level, z_dim=16, ngf=4, **changes)).eval()
    for name, parameter in generator.named_parameters():
        if "noise" in name:
            parameter.data.fill_(0.3)
    return generator, [torch.randn(2, 1, *size) for size in generator.noise_sizes()]


@torch.no_grad()
def test_mixing_a_latent_with_itself_changes_nothing():
    generator, noise = sharp_generator()
    z = torch.randn(2, 16)
    plain = generator(z, noise=noise).full
    for strength in (0.0, 0.3, 1.0, {64: 0.5, 256: 1.0}):
        assert torch.equal(generator(z, style_z=z, style_strength=strength, noise=noise).full, plain)
    torch.manual_seed(1)
    drawn = generator(z).full
    torch.manual_seed(1)
    assert torch.equal(generator(z, style_z=z).full, drawn)


@torch.no_grad()
def test_style_strength_goes_from_content_to_style_gate_by_gate():
    generator, noise = sharp_generator()
    z, style_z = torch.randn(2, 16), torch.randn(2, 16)
    plain = generator(z, noise=noise).full
    mixed = generator(z, style_z, noise=noise).full
    assert torch.equal(generator(z, style_z, style_strength=0.0, noise=noise).full, plain)
    assert torch.equal(generator(z, style_z, style_strength={}, noise=noise).full, plain)
    assert torch.equal(generator(z, style_z, {64: 1.0, 128: 1.0, 256: 1.0}, noise=noise).full, mixed)
    assert not torch.equal(mixed, plain)
    one_gate = [generator(z, style_z, {level: 1.0}, noise=noise).full for level in (64, 128, 256)]
    for picture in one_gate:
        assert not torch.equal(picture, plain) and not torch.equal(picture, mixed)


@torch.no_grad()
def test_noise_is_an_input_and_follows_its_learned_strength():
    generator, noise = sharp_generator()
    z = torch.randn(2, 16)
    assert torch.equal(generator(z, noise=noise).full, generator(z, noise=noise).full)
    assert not torch.equal(generator(z).full, generator(z).full)
    for name, parameter in generator.named_parameters():
        if "noise" in name:
            parameter.zero_()
    assert torch.equal(generator(z).full, generator(z, noise=noise).full)


def test_quadrants_tile_the_picture():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    top = torch.cat([quadrant_of(x, 0), quadrant_of(x, 1)], dim=3)
    bottom = torch.cat([quadrant_of(x, 2), quadrant_of(x, 3)], dim=3)
    assert torch.equal(torch.cat([top, bottom], dim=2), x)
