"""The original networks' weights, rebuilt from a formula, and what they were seen to draw and judge."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"


def layout(size: int) -> dict:
    """Widths and every state-dict key with its shape, of the original at 256, 512 or 1024 pixels."""
    return json.loads((DATA / f"layout_{size}.json").read_text())


def golden(size: int) -> dict[str, np.ndarray]:
    """Outputs of the original at that size, with the seed of the weights behind them."""
    with np.load(DATA / f"golden_{size}.npz") as arrays:
        return dict(arrays)


def formula_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """A state dict in the original's keys: each tensor follows from its key and the seed alone."""
    weights = {}
    for key, shape in shapes.items():
        t = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
        if key.endswith("running_var"):
            t = 0.25 + 0.1 * t**2
        elif key.endswith(("running_mean", ".bias")):
            t = 0.1 * t
        elif key.endswith("weight_u"):
            t = t / np.linalg.norm(t)
        elif key.endswith("weight_v"):
            continue
        elif key.endswith("num_batches_tracked"):
            t = 7
        elif len(shape) == 1:
            t = 1 + 0.2 * t if shape[0] > 1 else 0 * t
        else:
            t = 0.05 * t
        dtype = torch.long if key.endswith("num_batches_tracked") else torch.float32
        weights[key] = torch.as_tensor(t, dtype=dtype)
    for key in shapes:
        if key.endswith("weight_v"):
            matrix = weights[key.replace("weight_v", "weight_orig")]
            if key.startswith("init."):  # the one transposed convolution is normalised over dimension 1
                matrix = matrix.transpose(0, 1)
            v = matrix.flatten(1).T @ weights[key.replace("weight_v", "weight_u")]
            weights[key] = v / v.norm()
    return weights


def deviation(ours: Tensor, theirs: np.ndarray) -> float:
    """The largest difference, in standard deviations of the stored array."""
    return float(np.abs(ours.detach().numpy() - theirs).max() / theirs.std())
