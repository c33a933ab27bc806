"""A picture to the latent that draws it most nearly, and latents as short texts."""

import base64
import binascii

import torch
from torch import Tensor

from fastgan.errors import UserError

CODE_PREFIX = "z"


def encode_latent(z: Tensor) -> str:
    """A latent [Z] as a text of letters, digits, "-" and "_" that begins with "z"; rounded to half precision."""
    data = z.detach().cpu().to(torch.float16).numpy().astype("<f2").tobytes()
    return CODE_PREFIX + base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_latent(code: str, z_dim: int) -> Tensor:
    """The latent [Z] of a text from :func:`encode_latent`.

    Raises:
        UserError: it is no such text, or one for a model whose latent has another length.
    """
    body = code.removeprefix(CODE_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f'"{code[:20]}…" is no code of a projected picture; copy it whole') from None
    if len(data) != 2 * z_dim:
        raise UserError(f"this code holds {len(data) / 2:g} numbers, the model's latent has {z_dim}: project again")
    z = torch.frombuffer(bytearray(data), dtype=torch.float16).float()
    if not torch.isfinite(z).all():
        raise UserError(f'"{code[:20]}…" is no code of a projected picture; copy it whole')
    return z
