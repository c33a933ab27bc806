"""Original FastGAN checkpoints to ours, by an explicit map from their keys to our modules."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# What a name in the original is called here: a pattern over its modules, and ours. The first that matches counts.
GENERATOR_NAMES = [
    (r"init\.init\.0", "first.conv"),
    (r"init\.init\.1", "first.norm"),
    (r"feat_(8|32|128|512)\.1", r"up.\1.conv1"),
    (r"feat_(8|32|128|512)\.2", r"up.\1.noise1"),
    (r"feat_(8|32|128|512)\.3", r"up.\1.norm1"),
    (r"feat_(8|32|128|512)\.5", r"up.\1.conv2"),
    (r"feat_(8|32|128|512)\.6", r"up.\1.noise2"),
    (r"feat_(8|32|128|512)\.7", r"up.\1.norm2"),
    (r"feat_(16|64|256|1024)\.1", r"up.\1.conv"),
    (r"feat_(16|64|256|1024)\.2", r"up.\1.norm"),
    (r"se_(\d+)\.main\.1", r"sle.\1.squeeze"),
    (r"se_(\d+)\.main\.3", r"sle.\1.excite"),
    (r"to_128", "to_small"),
    (r"to_big", "to_full"),
]
# The original names its discriminator blocks by what they divide 512 pixels by; ours say the level they reach.
DOWN_LEVEL = {"4": "128", "8": "64", "16": "32", "32": "16", "64": "8"}
DOWN_PART = {
    "main.0": "conv1",
    "main.1": "norm1",
    "main.3": "conv2",
    "main.4": "norm2",
    "direct.1": "direct_conv",
    "direct.2": "direct_norm",
}
DISCRIMINATOR_NAMES = [
    (r"down_from_big\.(\d)", r"stem.\1"),
    *[
        (rf"down_{old}\.{re.escape(theirs)}", f"down.{level}.{ours}")
        for old, level in DOWN_LEVEL.items()
        for theirs, ours in DOWN_PART.items()
    ],
    *[(rf"se_\d+_{old}\.main\.1", f"sle.{level}.squeeze") for old, level in DOWN_LEVEL.items()],
    *[(rf"se_\d+_{old}\.main\.3", f"sle.{level}.excite") for old, level in DOWN_LEVEL.items()],
    (r"rf_big\.(\d)", r"head.\1"),
    (r"down_from_small\.0", "small_stem"),
    *[(rf"down_from_small\.{n}\.main\.0", f"small_down.{level}.conv") for n, level in ((2, 32), (3, 16), (4, 8))],
    *[(rf"down_from_small\.{n}\.main\.1", f"small_down.{level}.norm") for n, level in ((2, 32), (3, 16), (4, 8))],
    (r"rf_small", "small_head"),
    *[
        (rf"decoder_{theirs}\.main\.{n}\.{i}", f"{ours}.up.{n - 1}.{part}")
        for theirs, ours in (("big", "decode_whole"), ("part", "decode_quadrant"), ("small", "decode_small"))
        for n in (1, 2, 3, 4)
        for i, part in ((1, "conv"), (2, "norm"))
    ],
    *[
        (rf"decoder_{theirs}\.main\.5", f"{ours}.to_image")
        for theirs, ours in (("big", "decode_whole"), ("part", "decode_quadrant"), ("small", "decode_small"))
    ],
]
TENSOR_NAMES = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def rename(key: str, names: list[tuple[str, str]]) -> str | None:
    """Our name for one key of an original state dict, or None where the map has none."""
    module, _, tensor = key.rpartition(".")
    for pattern, ours in names:
        match = re.fullmatch(pattern, module)
        if match:
            return f"{match.expand(ours)}.{TENSOR_NAMES.get(tensor, tensor)}"
    return None


def load_original(network: nn.Module, state: Mapping[str, Tensor], names: list[tuple[str, str]]) -> None:
    """Fill one of our networks from an original state dict; every tensor must find its place.

    Raises:
        KeyError: keys that the map does not know, or that are missing.
        RuntimeError: a shape differs.
    """
    renamed = {rename(key, names): torch.as_tensor(value) for key, value in state.items()}
    if None in renamed:
        raise KeyError(f"unknown keys: {[key for key in state if rename(key, names) is None]}")
    network.load_state_dict(renamed, strict=True)
