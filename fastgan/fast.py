"""Exact arithmetic that costs less: it equals its plain form up to rounding, and one switch turns it off."""

import contextlib
import ctypes
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 8  # pixels: on smaller maps, deriving the kernel costs more than the convolution saves
ROW = 64  # channels: PyTorch handles shorter half-precision rows one number at a time
WIDE = 128  # numbers: rows that are shorter are added up several at a time
PARTS = 64  # sums that are rounded to half precision before they are added up
WORTH_IT = 1.2  # how many times faster bfloat16 has to be

_enabled = True


@contextlib.contextmanager
def use(enabled: bool) -> Iterator[None]:
    """Turn the fast forms on or off inside a `with` block; they are on by default."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


# What three taps on a doubled row are on the row itself: four taps of a transposed convolution with stride 2. Each
# output pixel sees two input pixels, one of them through the sum of two taps.
_TAPS = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@functools.cache
def _taps(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept for training too, whoever asks first
        row = torch.tensor(_TAPS, device=device, dtype=dtype)
        return torch.kron(row, row).T.contiguous()  # [9, 16]


def transposed_kernel(weight: Tensor) -> Tensor:
    """The kernel whose stride-2 transposed convolution equals doubling by nearest neighbour and a 3×3 convolution.

    Args:
        weight: of the 3×3 convolution, [C', C, 3, 3].

    Returns:
        [C, C', 4, 4], a fixed linear map of `weight`; use it with stride 2 and padding 1.
    """
    outputs, inputs = weight.shape[:2]
    swapped = weight.transpose(0, 1).reshape(-1, 9)  # nine numbers are moved here rather than sixteen later
    return (swapped @ _taps(weight.device, weight.dtype)).view(inputs, outputs, 4, 4)


def double_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Nearest 2× and a 3×3 convolution with padding 1: [B, C, H, W] to [B, C', 2H, 2W].

    On a CPU it is one transposed convolution, with 2.25 times fewer operations, where the map is large enough. A
    convolution with the attribute `kernel` brings the transposed kernel along, and one with the method `doubled` does
    all of it.
    """
    if hasattr(conv, "doubled"):
        return conv.doubled(x)
    if _enabled and x.device.type == "cpu" and min(x.shape[2:]) >= SMALLEST:
        kernel = getattr(conv, "kernel", None)
        if kernel is None:
            with torch.autocast("cpu", enabled=False):  # sums of taps are rounded once, by the convolution
                kernel = transposed_kernel(conv.weight)
        return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight, conv.bias, padding=1)


def halving_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution with stride 2 and TensorFlow's 'SAME' padding: [B, C, H, W] to [B, C', H/2, W/2], rounded up.

    On a CPU the map is not copied to pad it: even sides have one pixel less of padding in front than behind, and a row
    of zeros in front of the kernel comes to the same.

    Args:
        x: the map.
        conv: its kernel is square and has an odd side; its own stride and padding do not count.
    """
    kernel, (height, width) = conv.kernel_size[0], x.shape[2:]
    if not (_enabled and x.device.type == "cpu"):
        pad_h, pad_w = kernel - 2 + height % 2, kernel - 2 + width % 2
        x = F.pad(x, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        return F.conv2d(x, conv.weight, conv.bias, 2, 0, 1, conv.groups)
    return F.conv2d(x, _halving_kernel(x, conv), conv.bias, 2, kernel // 2, 1, conv.groups)


def _halving_kernel(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The kernel of :func:`halving_conv` for as much padding behind the map as in front of it."""
    height, width = x.shape[2:]
    return F.pad(conv.weight, (1 - width % 2, 0, 1 - height % 2, 0))


def same_conv_relu6(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution with TensorFlow's 'SAME' padding, then a ReLU6: [B, C, H, W] to [B, C', H/stride, W/stride].

    Where it is frozen and a CPU computes it in half precision, the map is bounded as it is written: it is not read
    again, and not kept twice for the way back.

    Args:
        x: the map.
        conv: has a stride of 1 or 2, and pads by itself.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    half = _enabled and x.device.type == "cpu" and dtype == torch.bfloat16
    if not half or conv.weight.requires_grad or not has_mkldnn("AVX512", "_convolution_pointwise"):
        return F.relu6(conv(x), inplace=not x.requires_grad)  # in place, or PyTorch would copy the map first
    weight = _halving_kernel(x, conv) if conv.stride[0] == 2 else conv.weight
    x, weight, bias = (t.to(dtype) for t in (channels_last(x), weight, conv.bias))
    return _BoundedConv.apply(x, weight, bias, conv.stride, conv.kernel_size[0] // 2, conv.groups)


@functools.cache
def has_mkldnn(capability: str, *operators: str) -> bool:
    """Whether PyTorch has these operators of its own compiler, and this CPU what they are written for."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith(capability)
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


class _BoundedConv(torch.autograd.Function):
    """A frozen convolution with a ReLU6 in one."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, groups):
        fixed = [padding, padding], stride, [1, 1]
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *fixed, groups, "hardtanh", [0.0, 6.0], "")
        ctx.save_for_backward(weight, y)
        ctx.size, ctx.fixed, ctx.groups = x.shape, fixed, groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        weight, y = ctx.saved_tensors
        gradient = torch.ops.aten.hardtanh_backward(gradient, y, 0.0, 6.0)  # 0 at both bounds, so y is as good as x
        padding, stride, dilation = ctx.fixed
        # Each channel by itself and with strides, a CPU is twenty times as fast in single precision.
        dtype = torch.float32 if ctx.groups > 1 and stride[0] > 1 else y.dtype
        x = torch.empty(ctx.size, dtype=dtype, memory_format=torch.channels_last)  # only its size is asked for
        fixed = stride, padding, dilation, False, [0, 0], ctx.groups, [True, False, False]
        of_x = torch.ops.aten.convolution_backward(gradient.to(dtype), x, weight.to(dtype), None, *fixed)[0]
        return of_x.to(y.dtype), None, None, None, None, None


def enabled() -> bool:
    """Whether the fast forms are on."""
    return _enabled


def channels_last(x: Tensor) -> Tensor:
    """The map with its channels innermost in memory, which convolutions on CPUs and GPUs like best: same values."""
    if x.device.type == "mps":
        return x.contiguous()  # the backward pass of its batch norm is wrong otherwise in some versions of PyTorch
    return x.contiguous(memory_format=torch.channels_last) if _enabled and x.device.type in ("cpu", "cuda") else x


def is_narrow(dtype: torch.dtype, channels: int) -> bool:
    """Whether PyTorch handles the pixels of a channels-last map with so many channels one number at a time."""
    return dtype.itemsize == 2 and channels < ROW


def glu(x: Tensor) -> Tensor:
    """A gated linear unit over the channels: [B, 2C, H, W] to [B, C, H, W]."""
    half = x.shape[1] // 2
    if not (_enabled and x.device.type == "cpu" and is_narrow(x.dtype, half)):
        return F.glu(x, dim=1)
    return x[:, :half] * channels_last(x[:, half:]).sigmoid()


def norm_glu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch normalisation, then a gated linear unit over the channels: [B, 2C, H, W] to [B, C, H, W]."""
    if not _channels_last_training(norm, x):
        return glu(norm(x))
    return _NormGLU.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, _momentum(norm), norm.eps)


def norm_leaky_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch normalisation, then a leaky ReLU of slope 0.2: [B, C, H, W] to the same."""
    if not _channels_last_training(norm, x):
        return F.leaky_relu(norm(x), 0.2)
    y = _Norm.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, _momentum(norm), norm.eps)
    return F.leaky_relu(y, 0.2)


def _channels_last_training(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    return (
        _enabled
        and norm.training
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _momentum(norm: nn.BatchNorm2d) -> float:
    """The weight of this batch in the running statistics; counts the batch, as the module does."""
    norm.num_batches_tracked.add_(1)
    return 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


class _Norm(torch.autograd.Function):
    """Batch normalisation of a channels-last map on a CPU, where PyTorch takes ten times as long to go back."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, scale = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return *_norm_backward(gradient, *ctx.saved_tensors), None, None, None, None


class _NormGLU(torch.autograd.Function):
    """The same and a gated linear unit, whose gate gets a map of its own: on halves of rows PyTorch is slow."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, scale = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        half = x.shape[1] // 2
        value = y[:, :half]
        gate = y[:, half:].contiguous(memory_format=torch.channels_last).sigmoid_()
        ctx.save_for_backward(x, weight, mean, scale, y, gate)
        return value * gate

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight, mean, scale, y, gate = ctx.saved_tensors
        half = gate.shape[1]
        before = torch.empty_like(x)  # the gradient before the unit
        of_value = torch.mul(gradient, gate, out=before[:, :half])
        of_gate = of_value * y[:, :half]
        torch.addcmul(of_gate, of_gate, gate, value=-1, out=before[:, half:])
        return *_norm_backward(before, x, weight, mean, scale), None, None, None, None


def _norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, weight and bias, from that of the output of a batch normalisation (arXiv:1502.03167)."""
    rows = [t.permute(0, 2, 3, 1).flatten(0, 2) for t in (x, gradient)]  # [B * H * W, C] each
    count = len(rows[0])
    product = rows[0] * rows[1]
    total, dot = (_sum_of_rows(part) for part in (rows[1], product))
    of_weight = (dot - mean * total) * scale
    gain = weight * scale
    slope = -gain * of_weight * scale / count
    offset = -gain * total / count - slope * mean
    gain, slope, offset = (t.to(x.dtype) for t in (gain, slope, offset))
    torch.addcmul(offset, rows[0], slope, out=product).addcmul_(rows[1], gain)
    return product.view(*x.shape[:1], *x.shape[2:], -1).permute(0, 3, 1, 2), of_weight, total


def _sum_of_rows(rows: Tensor) -> Tensor:
    """Sums over [N, C] in single precision: [C]. As a product of matrices, several short rows at a time.

    In half precision a product's result is rounded to that, so it is of a part of the rows each.
    """
    count, channels = rows.shape
    together = math.gcd(count, max(1, WIDE // channels))
    parts = math.gcd(count // together, PARTS)
    wide = rows.view(parts, -1, together * channels)
    return (rows.new_ones(parts, 1, wide.shape[1]) @ wide).float().view(-1, channels).sum(dim=0)


def prepare(device: torch.device) -> None:
    """Set up this process for training on a device, where every step has the same shapes."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, where a float32 product is left under autocast
    elif device.type == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Have this process keep the memory that its tensors free, for the next step.

    Linux otherwise takes large blocks back at once and hands them out again page by page, which costs a CPU more time
    than most layers' arithmetic. The settings are glibc's; with another C library nothing changes.
    """
    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    _mallopt({mmap_threshold: 2**30, trim_threshold: 2**31 - 1})


def share_freed_memory() -> None:
    """Have the threads of this process take memory from two pools, so that what one frees the others can use.

    glibc otherwise gives every thread of a server a pool of its own, and each keeps what its largest picture needed.
    To be called before the threads start. With another C library nothing changes.
    """
    arena_max = -8  # its number in malloc.h
    _mallopt({arena_max: 2})


def _mallopt(settings: dict[int, int]) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            for name, value in settings.items():
                mallopt(name, value)


def best_precision(device: torch.device) -> str:
    """ "bf16" where this device computes convolutions faster in bfloat16 than in float32, else "no".

    A CPU is asked by timing one layer both ways, which takes a fraction of a second.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if device.type != "cpu":
        return "no"
    x, weight = torch.randn(4, 64, 64, 64), torch.randn(64, 64, 3, 3)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    inputs = [(x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        # By turns, and the best of many: beside a busy neighbour only some calls show what the device can do.
        rounds = [[_seconds(F.conv2d, *arguments) for arguments in inputs] for _ in range(20)]
    full, half = map(min, zip(*rounds, strict=True))
    return "bf16" if full > WORTH_IT * half else "no"


def _seconds(function: Callable, *arguments: Tensor) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
