"""A generator as ONNX, for programs without PyTorch: latents, gate strengths and noise in, pictures out."""

import copy
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan import __version__
from fastgan.errors import UserError
from fastgan.files import write_file
from fastgan.models import Generator
from fastgan.sampling import seeded_inputs

FILES = {torch.float32: "model.onnx", torch.float16: "model_fp16.onnx"}
TOLERANCE = 1e-3  # between PyTorch's pictures and onnxruntime's, in [-1, 1], at fp32
HALF_TOLERANCE = 0.1  # the same at fp16, which rounds to a thousandth at every layer
CHECKED_SEEDS = range(3)


class Exported(NamedTuple):
    """One ONNX file: where, how large, and how far its pictures are from PyTorch's at most, in [-1, 1]."""

    path: Path
    size: int  # bytes
    difference: float


class Program(nn.Module):
    """A generator whose inputs are all tensors, as ONNX wants them.

    Args:
        generator: in eval mode.
        dtype: what it computes in; inputs and pictures are float32 all the same.
    """

    def __init__(self, generator: Generator, dtype: torch.dtype):
        super().__init__()
        self.generator, self.dtype = generator.to(dtype), dtype

    def forward(self, z: Tensor, style_z: Tensor | None, strength: Tensor | None, noise: list[Tensor]) -> Tensor:
        """Pictures [B, C, H, W] in about [-1, 1].

        Args:
            z, style_z: latents, [B, Z].
            strength: how much of `style_z` each gate takes, 0 to 1, in order of `config.gates`; [number of gates].
                None, as `style_z`, where the model has no gates.
            noise: maps [B, 1, h, w] of :meth:`fastgan.models.Generator.noise_sizes`.
        """
        z, noise = z.to(self.dtype), [x.to(self.dtype) for x in noise]
        if style_z is None:
            return self.generator(z, noise=noise).full.float()
        strengths = {gate: strength[i].to(self.dtype) for i, gate in enumerate(self.generator.config.gates)}
        return self.generator(z, style_z.to(self.dtype), strengths, noise).full.float()


def export_onnx(
    generator: Generator, folder: str | os.PathLike, dtypes: Sequence[torch.dtype] = tuple(FILES), name: str = ""
) -> list[Exported]:
    """Write model.onnx (fp32) and model_fp16.onnx (half the size), each run and compared before it is kept.

    Inputs are `z` and `style_z` [batch, Z], `strength` [gates], where the model has gates, and `noise_0` ... as
    :func:`fastgan.sampling.seeded_inputs` makes them from seeds, all float32; the output is `images`
    [batch, C, H, W] in [-1, 1], float32. Without a style, give z as style_z too, or strengths of 0. The anchors of a
    model that has some stand as JSON in the metadata, beside `config`: a latent is sqrt(1 - spread²) times one of them
    plus `spread` times normal numbers, and normal numbers alone beyond their length.

    Args:
        generator: in eval mode; left as it is.
        folder: where the files go.
        dtypes: which files: torch.float32, torch.float16.
        name: of the model, for the files' metadata.

    Raises:
        UserError: a package is missing, a file can't be written, or onnxruntime draws other pictures.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what PyTorch's exporter is made with
    except ModuleNotFoundError as error:
        raise UserError(f'export: needs the package {error.name}: pip install -e ".[export]"') from None
    folder, plain = Path(folder), _plain(generator)
    gates = len(generator.config.gates)
    z, noise = seeded_inputs(plain, list(CHECKED_SEEDS))
    inputs = (z, z.flip(0), torch.linspace(0.3, 1, gates), noise) if gates else (z, None, None, noise)
    with torch.inference_mode():
        expected = Program(plain, torch.float32)(*inputs).numpy()
    feed = feed_of(*inputs)
    facts = {
        "fastgan": __version__,
        "model": name,
        "config": json.dumps(generator.config.to_dict()),
        "gates": json.dumps(generator.config.gates),
    }
    if plain.anchors is not None:
        facts["anchors"] = json.dumps([[round(number, 4) for number in anchor] for anchor in plain.anchors.tolist()])
    done = []
    for dtype in dtypes:
        path = folder / FILES[dtype]
        program = _trace(Program(copy.deepcopy(plain), dtype).eval(), inputs, list(feed))
        program.metadata_props.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in facts.items())
        content = program.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        difference = float(np.abs(session.run(None, feed)[0] - expected).max())
        if not difference <= (TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE):
            raise UserError(f"export: onnxruntime's pictures differ by {difference:.1e} from PyTorch's; not written")
        write_file(path, lambda temporary, content=content: temporary.write_bytes(content))
        done.append(Exported(path, len(content), difference))
    return done


def _plain(generator: Generator) -> Generator:
    """A copy on the CPU in float32 with spectral norm done once and for all."""
    plain = Generator(generator.config).eval()  # not deepcopy, whose copies would share what is taken off here
    plain.load_state_dict(generator.state_dict())
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    return plain


def feed_of(z: Tensor, style_z: Tensor | None, strength: Tensor | None, noise: list[Tensor]) -> dict[str, np.ndarray]:
    """The inputs by their names in the file, in its order."""
    named = {"z": z, "style_z": style_z, "strength": strength, **{f"noise_{i}": x for i, x in enumerate(noise)}}
    return {name: x.numpy() for name, x in named.items() if x is not None}


def _trace(program: Program, inputs: tuple, names: list[str]):
    """The program as an ONNX ModelProto with a batch of any size."""
    batch = {0: torch.export.Dim("batch")}
    shapes = (batch, *((None, None) if inputs[1] is None else (batch, {})), [batch] * len(inputs[3]))
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in noisy]
    try:
        for logger in noisy:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter talks to its developers
            traced = torch.onnx.export(
                program,
                inputs,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["images"],
                dynamic_shapes=shapes,
            )
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
    return traced.model_proto
