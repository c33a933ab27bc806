import copy

import pytest
import torch

from fastgan.config import ModelConfig
from fastgan.ema import EMA, reestimate_batch_norm
from fastgan.models import Generator
from fastgan.sampling import sample

TINY = ModelConfig(64, 64, z_dim=16, ngf=4)


def test_average_is_halfway_after_one_half_life():
    generator = Generator(TINY)
    ema = EMA(generator, half_life_kimg=0.01)
    start = [p.clone() for p in ema.model.parameters()]
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    for _ in range(5):
        ema.update(generator, 2)
    for before, after in zip(start, ema.model.parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.5)


def test_half_life_counts_images_not_steps():
    generator = Generator(TINY)
    small, large = EMA(generator, 1.0), EMA(generator, 1.0)
    with torch.no_grad():
        next(generator.parameters()).add_(1)
    for _ in range(4):
        small.update(generator, 8)
    large.update(generator, 32)
    torch.testing.assert_close(next(small.model.parameters()), next(large.model.parameters()))


def test_published_average_is_a_thousandth_per_step_of_eight():
    generator = Generator(TINY)
    ema = EMA(generator, half_life_kimg=5.5)
    before = ema.model.to_full.parametrizations.weight.original.clone()
    with torch.no_grad():
        generator.to_full.parametrizations.weight.original.add_(1)
    ema.update(generator, 8)
    assert (ema.model.to_full.parametrizations.weight.original - before).mean().item() == pytest.approx(1e-3, rel=0.02)


def test_settling_measures_statistics_of_the_averaged_weights():
    torch.manual_seed(0)
    generator = Generator(TINY)
    ema = EMA(generator, 1.0)
    for _ in range(3):
        generator(torch.randn(8, 16))
    settled = ema.settle(generator, images=512)
    with torch.no_grad():
        z = torch.randn(256, 16)
        evaluated = settled(z).full
        normalised_by_the_batch = copy.deepcopy(settled).train()(z).full
    assert not settled.training
    assert (evaluated - normalised_by_the_batch).abs().mean() < 0.1 * evaluated.std()


def test_settling_repeats_exactly_and_leaves_random_state_and_trained_network_alone():
    torch.manual_seed(0)
    generator = Generator(TINY)
    ema = EMA(generator, 1.0)
    before = copy.deepcopy(generator.state_dict())
    state = torch.get_rng_state()
    first = copy.deepcopy(ema.settle(generator).state_dict())
    second = ema.settle(generator).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())


def test_reestimation_makes_a_strange_generator_draw_sensible_pictures():
    torch.manual_seed(0)
    generator = Generator(TINY).eval()
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.fill_(100.0)
    reestimate_batch_norm(generator)
    picture = next(sample(generator, [0])).float()
    assert 0 < picture.std() and 20 < picture.mean() < 235


def test_a_warm_up_follows_closely_at_first_and_ends_at_the_half_life():
    generator = Generator(ModelConfig(32, 32, z_dim=4, ngf=1))
    ema = EMA(generator, half_life_kimg=1.0, warmup=0.05)
    start = next(ema.model.parameters()).clone()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1.0)
    ema.update(generator, images=10, seen=200)  # the half-life is 10 images now
    torch.testing.assert_close(next(ema.model.parameters()), start + 0.5)
    ema.update(generator, images=1000, seen=10**6)
    torch.testing.assert_close(next(ema.model.parameters()), start + 0.75)
