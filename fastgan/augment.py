"""DiffAugment: the same family of random, differentiable changes on real and drawn pictures (arXiv:2006.10738)."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import fast


def color(x: Tensor) -> Tensor:
    """Random brightness (±0.5), saturation (0 to 2) and contrast (0.5 to 1.5); transparency is left alone."""
    x, alpha = x[:, :3], x[:, 3:]
    brightness, saturation, contrast = torch.rand(3, len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
    x = x + brightness - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * 2 * saturation
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (contrast + 0.5)
    return torch.cat([x, alpha], dim=1)


def translation(x: Tensor, ratio: float = 0.125, places: int | None = None) -> Tensor:
    """Shifts each picture by up to `ratio` of its side; what comes in from outside is mid-grey 0, or transparent.

    Args:
        x: [B, C, H, W].
        ratio: as a share of the side.
        places: shifts are multiples of 1/`places` of the side, so that a grey line along an edge, which a generator
            may draw, does not pass for a shift by its width. By default, and of smaller pictures, whole pixels.
    """
    batch, _, height, width = x.shape
    reach_y, reach_x = int(height * ratio + 0.5), int(width * ratio + 0.5)
    step_y, step_x = (max(1, side // places) if places else 1 for side in (height, width))
    dy = step_y * torch.randint(-(reach_y // step_y), reach_y // step_y + 1, (batch, 1), device=x.device)
    dx = step_x * torch.randint(-(reach_x // step_x), reach_x // step_x + 1, (batch, 1), device=x.device)
    if x.device.type == "cpu" and fast.enabled():
        shifts = zip(x.split(1), dy.flatten().tolist(), dx.flatten().tolist(), strict=True)
        return torch.cat([_padded(picture, (-b, b, -a, a)) for picture, a, b in shifts])
    padded = _padded(x, (reach_x, reach_x, reach_y, reach_y))
    rows = torch.arange(height, device=x.device) + reach_y + dy  # [B, H]
    columns = torch.arange(width, device=x.device) + reach_x + dx  # [B, W]
    picture = torch.arange(batch, device=x.device)[:, None, None]
    # Where the device likes them so: on MPS the backward pass of pooling reads gradients in the wrong order otherwise.
    return fast.channels_last(padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2))


def _padded(x: Tensor, pad: tuple[int, int, int, int]) -> Tensor:
    """Pictures padded, or cropped where negative, left, right, above and below: with mid-grey 0, or transparent."""
    colours = F.pad(x[:, :3], pad, value=0.0)
    return colours if x.shape[1] < 4 else torch.cat([colours, F.pad(x[:, 3:], pad, value=-1.0)], dim=1)


def cutout(x: Tensor, ratio: float = 0.5) -> Tensor:
    """Sets one rectangle of each picture to mid-grey 0, or transparent, `ratio` of its sides long, anywhere."""
    batch, _, height, width = x.shape
    cut_height, cut_width = int(height * ratio + 0.5), int(width * ratio + 0.5)
    top = torch.randint(0, height + 1 - cut_height % 2, (batch, 1), device=x.device) - cut_height // 2
    left = torch.randint(0, width + 1 - cut_width % 2, (batch, 1), device=x.device) - cut_width // 2
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows = (row >= top) & (row < top + cut_height)  # [B, H]
    inside_columns = (column >= left) & (column < left + cut_width)  # [B, W]
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.cat([x[:, :3].masked_fill(inside, 0.0), x[:, 3:].masked_fill(inside, -1.0)], dim=1)


def augment(x: Tensor, policy: Sequence[str], cutout_ratio: float = 0.5, places: int | None = None) -> Tensor:
    """The pictures after each named change in turn, with gradients: [B, C, H, W] in [-1, 1], about the same out.

    `cutout_ratio` and `places` are :func:`cutout`'s and :func:`translation`'s.
    """
    changes = {
        "color": color,
        "translation": partial(translation, places=places),
        "cutout": partial(cutout, ratio=cutout_ratio),
    }
    for name in policy:
        x = changes[name](x)
    return x
