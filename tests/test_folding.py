import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from fastgan import fast
from fastgan.config import ModelConfig
from fastgan.ema import reestimate_batch_norm
from fastgan.folding import folded
from fastgan.models import Generator
from fastgan.packing import can_pack


def drawn_by(config: ModelConfig) -> Generator:
    """A generator whose every part does something."""
    torch.manual_seed(0)
    generator = Generator(config)
    for name, parameter in generator.named_parameters():
        if "noise" in name:
            parameter.data.fill_(0.3)
        elif name.endswith("bias"):
            parameter.data.normal_()
    reestimate_batch_norm(generator)
    return generator


@pytest.mark.parametrize(
    ("size", "constant", "edge"),
    [((32, 32), False, "zeros"), ((128, 128), True, "replicate"), ((64, 96), True, "zeros")],
)
def test_a_folded_generator_draws_the_same(size, constant, edge):
    generator = drawn_by(ModelConfig(*size, z_dim=16, ngf=8, constant=constant, edge=edge)).double()
    z, style = torch.randn(2, 3, 16, dtype=torch.float64)
    noise = [torch.randn(3, 1, *side, dtype=torch.float64) for side in generator.noise_sizes()]
    quick = folded(generator)
    assert quick is not generator and not any("parametrizations" in name for name in quick.state_dict())
    with torch.no_grad():
        found, expected = (g(z, style, {64: 0.5, 128: 1.0}, noise) for g in (quick, generator))
    torch.testing.assert_close(found.full, expected.full)
    assert found.small is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("size", "ngf", "constant", "edge"),
    [
        ((32, 32), 16, False, "zeros"),
        ((128, 128), 16, True, "replicate"),
        ((64, 96), 16, True, "zeros"),
        ((256, 256), 4, False, "zeros"),
    ],
)
def test_a_packed_generator_draws_as_exactly_as_the_plain_one(size, ngf, constant, edge, dtype):
    if not can_pack(torch.device("cpu"), dtype):
        pytest.skip("this CPU does not compute in it")
    generator = drawn_by(ModelConfig(*size, z_dim=16, ngf=ngf, constant=constant, edge=edge)).double()
    z, style = torch.randn(2, 3, 16, dtype=torch.float64)
    noise = [torch.randn(3, 1, *side, dtype=torch.float64) for side in generator.noise_sizes()]
    with torch.no_grad():
        exact = generator.eval()(z, style, {64: 0.5, 128: 1.0}, noise).full

    generator.to(dtype)
    quick = folded(generator)
    assert not any(isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) for module in quick.modules())
    inputs = z.to(dtype), style.to(dtype), {64: 0.5, 128: 1.0}, [level.to(dtype) for level in noise]
    with torch.no_grad():
        found, plain = ((g(*inputs).full.double() - exact).abs().mean() for g in (quick, generator))
    assert found <= 1.5 * plain


def test_it_is_made_once_and_again_when_the_weights_change():
    generator = drawn_by(ModelConfig(32, 32, z_dim=8, ngf=4))
    first = folded(generator)
    assert folded(generator) is first
    with torch.no_grad():
        next(generator.parameters()).mul_(2)
    assert folded(generator) is not first


def test_a_generator_is_left_alone_where_it_is_asked_to_be_plain_and_its_mode_always():
    generator = drawn_by(ModelConfig(32, 32, z_dim=8, ngf=4))
    with fast.use(False):
        assert folded(generator) is generator
    assert not folded(generator.train()).training and generator.training


def test_nothing_is_kept_of_a_generator_that_is_gone():
    generator = drawn_by(ModelConfig(32, 32, z_dim=8, ngf=4))
    kept = weakref.ref(folded(generator))
    del generator
    gc.collect()
    assert kept() is None


def test_a_generator_made_in_inference_mode_draws():
    with torch.inference_mode():
        generator = drawn_by(ModelConfig(32, 32, z_dim=8, ngf=4))
        inside = generator.sample([3])[0]
    assert generator.sample([3])[0].tobytes() == inside.tobytes()


def test_what_the_caller_computes_in_changes_no_picture():
    generator = drawn_by(ModelConfig(32, 32, z_dim=8, ngf=4))
    expected = generator.sample([3])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert generator.sample([3])[0].tobytes() == expected.tobytes()


def test_threads_draw_from_one_packed_generator_at_once():
    generator = drawn_by(ModelConfig(64, 64, z_dim=8, ngf=4)).eval()
    expected = [image.tobytes() for image in generator.sample(range(8))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: generator.sample([seed])[0].tobytes(), range(8)))
    assert found == expected
