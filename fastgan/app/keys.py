"""What a person may type for a latent: a seed, a range of seeds, or the code of a projected picture."""

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.errors import UserError
from fastgan.models import Generator
from fastgan.projection import CODE_PREFIX, decode_latent
from fastgan.sampling import check_psi, parse_seeds, seeded_inputs


class Keys(NamedTuple):
    """Latents with names: labels as typed, z [N, Z], one noise tensor [N, 1, h, w] per map of the network."""

    labels: list[str]
    z: Tensor
    noise: list[Tensor]


def read_keys(generator: Generator, text: str, psi: float, what: str, most: int) -> Keys:
    """The latents that a text such as "0-3, 17" or "5, zABC…" names.

    Args:
        generator: what they are for.
        text: seeds, ranges, and codes from :func:`fastgan.projection.encode_latent`.
        psi: truncation of the seeds' latents; a projected picture stays where it was found.
        what: names the field in an error.
        most: how many are allowed.

    Raises:
        UserError: the text is something else, or names more than `most`; or psi is no number from 0 to 2.
    """
    check_psi(psi)
    parts = [part.strip() for part in (text or "").split(",")]
    if len(parts) > 4 * most:
        raise UserError(f"{what}: at most {most} at a time")
    latents, noise, labels = [], [], []
    for part in parts:
        code = part.startswith(CODE_PREFIX)
        # A projected picture was found with the noise of seed 0, and is drawn with it.
        seeds = [0] if code else parse_seeds(part, what)
        if len(labels) + len(seeds) > most:
            raise UserError(f"{what}: at most {most} at a time")
        z, maps = seeded_inputs(generator, seeds)
        latents.append(decode_latent(part, generator.config.z_dim)[None] if code else psi * z)
        noise.append(maps)
        labels.extend(["picture"] if code else [str(seed) for seed in seeds])
    return Keys(labels, torch.cat(latents), [torch.cat(maps) for maps in zip(*noise, strict=True)])
