import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan import fast
from fastgan.augment import translation
from fastgan.config import ModelConfig
from fastgan.features import SameConv2d
from fastgan.models import Discriminator, Generator, Images


def gradients(output: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return list(torch.autograd.grad((output * weights).sum(), inputs))


def test_drawing_before_training_spoils_nothing():
    fast._taps.cache_clear()
    weight = torch.randn(7, 5, 3, 3, requires_grad=True)
    with torch.inference_mode():
        fast.transposed_kernel(weight)
    fast.transposed_kernel(weight).sum().backward()
    assert weight.grad is not None


def test_a_transposed_convolution_doubles_and_convolves():
    x = torch.randn(2, 5, 8, 12, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, padding=1)
    quick = F.conv_transpose2d(x, fast.transposed_kernel(weight), stride=2, padding=1)
    torch.testing.assert_close(quick, plain)
    for found, expected in zip(gradients(quick, x, weight), gradients(plain, x, weight), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", [fast.norm_glu, fast.norm_leaky_relu])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_normalisation_of_channels_last_maps_is_the_plain_one(form, momentum):
    found = []
    for enabled in (True, False):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(6, momentum=momentum)
        nn.init.normal_(norm.weight)
        x = (torch.randn(4, 6, 5, 9) * 3 + 1).to(memory_format=torch.channels_last).requires_grad_()
        with fast.use(enabled):
            for _ in range(2):
                y = form(norm, x)
        node = y.grad_fn if form is fast.norm_glu else y.grad_fn.next_functions[0][0]
        assert enabled == node.name().startswith("_Norm")
        found.append([y, *gradients(y, x, norm.weight, norm.bias), norm.running_mean, norm.running_var])
    for quick, plain in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", [fast.norm_glu, fast.norm_leaky_relu])
def test_normalisation_in_half_precision_is_the_plain_one(form):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(64)
    nn.init.normal_(norm.weight)
    x = (torch.randn(8, 64, 12, 20) * 3 + 1).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    found = []
    for enabled, inputs in ((True, x), (False, x), (False, x.detach().float().requires_grad_())):
        with fast.use(enabled):
            y = form(norm, inputs)
        assert y.dtype == inputs.dtype
        found.append([part.float() for part in (y, *gradients(y, inputs, norm.weight, norm.bias))])
    quick, plain, exact = ([(a - b).norm() / b.norm() for a, b in zip(one, found[2], strict=True)] for one in found)
    assert not any(exact)
    for ours, theirs in zip(quick, plain, strict=True):
        assert ours < max(1.5 * theirs, 2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_halving_convolution_is_the_padded_one(groups, kernel, dtype):
    torch.manual_seed(0)
    layer = SameConv2d(6, 6, kernel, stride=2, groups=groups).requires_grad_(False)
    for size in [(12, 16), (11, 16), (9, 13)]:
        x = torch.randn(2, 6, *size).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
        found = []
        for enabled in (True, False):
            with fast.use(enabled), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                y = layer(x)
            found.append([y, *gradients(y, x)])
            assert y.dtype == dtype
        for quick, plain in zip(*found, strict=True):
            error = 1e-5 if dtype == torch.float32 else 2**-5
            torch.testing.assert_close(quick, plain, rtol=error, atol=error)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_bounded_convolution_is_the_plain_one(groups, kernel, stride):
    torch.manual_seed(0)
    layer = SameConv2d(6, 6, kernel, stride=stride, groups=groups).requires_grad_(False)
    layer.weight *= 20  # or nothing would reach the upper bound
    for size in [(12, 16), (9, 13)]:
        x = torch.randn(2, 6, *size, requires_grad=True)
        found = []
        for enabled in (True, False):
            with fast.use(enabled), torch.autocast("cpu", torch.bfloat16):
                y = fast.same_conv_relu6(x, layer)
            found.append([y, *gradients(y, x)])
        quick, plain = found
        assert quick[0].dtype == torch.bfloat16
        assert 0 == quick[0].min() < quick[0].max() == 6
        for ours, theirs in zip(quick, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2**-5, atol=2**-5)


def test_rows_in_half_precision_are_added_up_in_single():
    rows = torch.rand(2**15, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.testing.assert_close(fast._sum_of_rows(rows), rows.double().sum(dim=0).float(), rtol=5e-4, atol=0)


@pytest.mark.parametrize("channels", [3, 6, 32, 200])
def test_rows_are_added_up_whatever_their_length(channels):
    rows = torch.randn(6 * 64, channels, dtype=torch.float64)
    torch.testing.assert_close(fast._sum_of_rows(rows), rows.sum(dim=0).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_moved_one_by_one_as_all_at_once(channels):
    x = torch.rand(5, channels, 64, 48).to(memory_format=torch.channels_last).requires_grad_()
    found = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with fast.use(enabled):
            y = translation(x)
        found.append([y, *gradients(y, x)])
    for quick, plain in zip(*found, strict=True):
        assert torch.equal(quick, plain)


@pytest.mark.parametrize("channels", [2 * fast.ROW - 2, 2 * fast.ROW])
def test_a_gated_linear_unit_in_half_precision_is_the_plain_one(channels):
    torch.manual_seed(0)
    found = []
    x = torch.randn(2, channels, 5, 9).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    for enabled in (True, False):
        with fast.use(enabled):
            y = fast.glu(x)
        assert (y.grad_fn.name() == "MulBackward0") == (enabled and channels < 2 * fast.ROW)
        found.append([y, *gradients(y, x)])
    for quick, plain in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, rtol=2**-6, atol=2**-8)


@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_both_networks_compute_the_same_with_and_without(size):
    config = ModelConfig(*size, z_dim=16, ngf=8)
    torch.manual_seed(0)
    generator, discriminator = Generator(config).double(), Discriminator(config, ndf=8).double()
    z = torch.randn(4, 16, dtype=torch.float64)
    noise = [torch.randn(4, 1, *side, dtype=torch.float64) for side in generator.noise_sizes()]
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    judge_state = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    found = []
    for enabled in (True, False):
        generator.load_state_dict(state)
        discriminator.load_state_dict(judge_state)
        with fast.use(enabled):
            images = generator(z, noise=noise)
            logits, redrawn = discriminator(Images(*images), quadrant=2)
            parameters = [*generator.parameters(), *discriminator.parameters()]
            loss = logits.full.square().mean() + logits.small.square().mean() + sum(x.square().mean() for x in redrawn)
            found.append([images.full, redrawn.quadrant, *torch.autograd.grad(loss, parameters)])
    for quick, plain in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-7)


def test_the_switch_is_put_back():
    with pytest.raises(RuntimeError), fast.use(False):
        raise RuntimeError
    x = torch.randn(1, 2, 8, 8).to(memory_format=torch.contiguous_format)
    assert fast.channels_last(x).is_contiguous(memory_format=torch.channels_last)
    with fast.use(False):
        assert fast.channels_last(x) is x


@pytest.mark.parametrize(("gain", "chosen"), [(0.9, "no"), (1.1, "no"), (1.3, "bf16")])
def test_half_precision_is_chosen_where_it_is_well_worth_it(monkeypatch, gain, chosen):
    seconds = {torch.float32: 1.0, torch.bfloat16: 1 / gain}
    monkeypatch.setattr(fast, "_seconds", lambda function, x, weight: seconds[x.dtype])
    assert fast.best_precision(torch.device("cpu")) == chosen


def test_the_precision_chosen_is_one_that_the_device_has():
    assert fast.best_precision(torch.device("cpu")) in ("no", "bf16")
    assert fast.best_precision(torch.device("meta")) == "no"


FAULTS = """
import resource, sys, torch
from fastgan import fast
if sys.argv[1] == "keep":
    fast.keep_freed_memory()
for turn in range(14):
    if turn == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_kept_memory_is_handed_out_again_with_fewer_page_faults():
    keeping, plain = (
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("keep", "plain")
    )
    assert keeping < plain / 2


POOLS = """
import ctypes, sys, threading
from fastgan import fast
if sys.argv[1] == "share":
    fast.share_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)
def work():
    together.wait()
    libc.malloc(100)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_threads_that_share_memory_have_two_pools(tmp_path):
    pools = {}
    for mode in ("share", "plain"):
        subprocess.run([sys.executable, "-c", POOLS, mode, str(tmp_path / mode)], check=True)
        pools[mode] = (tmp_path / mode).read_text().count("<heap nr=")
    assert pools["share"] <= 2 < pools["plain"]
