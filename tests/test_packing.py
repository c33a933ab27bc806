import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import fast
from fastgan.packing import PackedConv, PackedDoubling, PhasedConv, PhasedUpBlock, can_pack

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


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (3, 4, 6), (3, 6, 4), (2, 16, 8)])
def test_doubling_side_by_side_and_one_by_one_is_the_plain_one(doubling, shape):
    count, height, width = shape
    x = maps(count, 6, height, width)
    with fast.use(False):
        expected = fast.double_conv(x, doubling)
    found = fast.double_conv(x, PackedDoubling(doubling))
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
