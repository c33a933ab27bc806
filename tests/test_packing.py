import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import fast, layers
from fastgan.packing import (
    PackedConv,
    PackedDoubling,
    PackedLinear,
    PhasedConv,
    PhasedEnd,
    PhasedUpBlock,
    ProductDoubling,
    can_pack,
)

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.float32), reason="this CPU has other convolutions"
)


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def doubling() -> nn.Conv2d:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=1).requires_grad_(False)
    conv.register_buffer("kernel", fast.transposed_kernel(conv.weight))
    return conv


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (4, 2, 1)])
def test_a_packed_convolution_is_the_plain_one(kernel, stride, padding):
    conv = nn.Conv2d(6, 8, kernel, stride, padding).requires_grad_(False)
    x = maps(2, 6, 8, 10)
    torch.testing.assert_close(PackedConv.of(conv)(x), conv(x))


@pytest.mark.parametrize("bias", [None, torch.arange(5.0)])
def test_a_packed_product_is_the_plain_one(bias):
    x, weight, plus = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(2, 3, 5)
    product = PackedLinear(weight, bias)
    torch.testing.assert_close(product(x), F.linear(x, weight, bias))
    torch.testing.assert_close(product(x, plus), F.linear(x, weight, bias) + plus)


@pytest.mark.parametrize("kind", [PackedDoubling, ProductDoubling])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (3, 4, 6), (3, 6, 4), (2, 16, 8)])
def test_doubling_by_convolution_and_by_products_is_the_plain_one(doubling, kind, shape):
    count, height, width = shape
    x = maps(count, 6, height, width)
    with fast.use(False):
        expected = fast.double_conv(x, doubling)
    found = fast.double_conv(x, kind(doubling))
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_phases_find_their_places(doubling):
    x = maps(2, 6, 5, 7)
    with fast.use(False):
        expected = F.glu(fast.double_conv(x, doubling), dim=1)
    torch.testing.assert_close(PhasedUpBlock(doubling)(x), expected)


@pytest.mark.parametrize("edge", ["zeros", "replicate"])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_four_pixels_at_once_are_the_same_pixels(edge, colours):
    conv = nn.Conv2d(6, colours, 3, padding=1, bias=False, padding_mode=edge).requires_grad_(False)
    x = maps(2, 6, 8, 10)
    torch.testing.assert_close(PhasedConv(conv)(x), conv(x))


@pytest.mark.parametrize("edge", ["zeros", "replicate"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("colours", "tanh"), [(1, False), (3, True), (4, False)])
def test_an_end_on_phases_is_the_plain_one(doubling, edge, gated, colours, tanh):
    conv = nn.Conv2d(4, colours, 3, padding=1, bias=False, padding_mode=edge).requires_grad_(False)
    x, gate = maps(3, 6, 5, 7), torch.rand(3, 4, 1, 1) if gated else None
    with fast.use(False):
        expected = conv(layers.gated(F.glu(fast.double_conv(x, doubling), dim=1), gate))
    found = PhasedEnd(PhasedUpBlock(doubling), conv, tanh)(x, gate=gate)
    torch.testing.assert_close(found, expected.tanh() if tanh else expected)
