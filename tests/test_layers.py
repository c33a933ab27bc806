import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.layers import FirstBlock, conv, pool_by_matrices, spectral_norm


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 4)])
def test_spectral_norm_is_pytorchs_own(layer):
    torch.manual_seed(0)
    ours, theirs = spectral_norm(copy.deepcopy(layer)), parametrizations.spectral_norm(copy.deepcopy(layer))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval().weight, theirs.eval().weight)
    x = torch.randn(2, 3, 8, 8)
    for norm in (ours, theirs):
        norm.eval()(x).square().sum().backward()
    gradients = (norm.parametrizations.weight.original.grad for norm in (ours, theirs))
    torch.testing.assert_close(*gradients)


def test_training_finds_the_largest_singular_value():
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(3, 16, 3)).train()
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
        for _ in range(100):
            weight = layer.weight
    assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) < 1e-3
    before = layer.parametrizations.weight[0]._u.clone()
    with torch.no_grad():
        layer.eval().weight  # noqa: B018 — computed when it is read
    assert torch.equal(before, layer.parametrizations.weight[0]._u)


def test_two_passes_before_one_backward_pass_are_fine():
    layer = spectral_norm(nn.Conv2d(3, 4, 3))
    x = torch.randn(1, 3, 5, 5)
    (layer(x).sum() + layer(2 * x).sum()).backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()


LOADED = """
import sys, torch
from fastgan.config import ModelConfig
from fastgan.models import Generator
with torch.device("meta"):
    Generator(ModelConfig(256, 256))
print(int("torch._dynamo" in sys.modules))
"""


def test_a_constant_is_there_where_the_latent_says_nothing():
    torch.manual_seed(0)
    block, published = FirstBlock(8, 4, (4, 4), constant=True), FirstBlock(8, 4, (4, 4))
    nothing = torch.zeros(2, 8)
    assert block(nothing)[0].std() > 0.05 and not published(nothing).any()
    assert published.state_dict().keys() == block.state_dict().keys() - {"constant"}


def test_shapes_alone_need_no_compiler():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"  # PyTorch loads it for random numbers on the meta device, which takes seconds


def test_a_convolution_that_repeats_its_edge_draws_no_frame():
    torch.manual_seed(0)
    plain = torch.ones(1, 4, 8, 8)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    framed, even = (conv(4, 3, 3, padding=1, edge=edge).eval()(plain) for edge in ("zeros", "replicate"))
    torch.testing.assert_close(even, even[..., :1, :1].expand_as(even))
    torch.testing.assert_close(framed[inside], framed[..., 1:2, 1:2].expand_as(framed[inside]))
    assert (framed[..., 0, :] - framed[..., 1, :]).abs().min() > 0


def test_an_edge_is_repeated_at_the_precision_of_the_map():
    layer = conv(4, 3, 3, padding=1, edge="replicate").eval()
    plain = nn.Conv2d(4, 3, 3, padding=1, bias=False, padding_mode="replicate")
    plain.load_state_dict({"weight": layer.weight})
    x = torch.randn(2, 4, 6, 8)
    assert torch.equal(layer(x), plain(x))
    x = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        torch.testing.assert_close(y, plain(x))
    [(padded, _), *_] = y.grad_fn.next_functions
    assert padded.name() == "ReplicationPad2DBackward0"  # no other precision on the way
    assert padded.next_functions[0][0].variable is x


@pytest.mark.parametrize("shape", [(4, 6), (8, 10), (5, 4), (16, 20)])
def test_pooling_by_matrices_is_adaptive_pooling(shape):
    x = torch.randn(2, 3, *shape)
    torch.testing.assert_close(pool_by_matrices(x, 4), torch.nn.functional.adaptive_avg_pool2d(x, 4))
