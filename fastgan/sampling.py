"""Seeds to pictures: one seed is one picture, whatever the batch or its order."""

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fastgan.anchors import around
from fastgan.errors import UserError
from fastgan.folding import folded
from fastgan.models import Generator
from fastgan.pixels import to_uint8

MAX_SEED = 2**32 - 1  # PyTorch takes longer ones, and looks at their last 32 bits


def parse_seeds(text: str, where: str = "seeds") -> list[int]:
    """Seeds from text such as "0-15" or "3,7,100-103".

    Args:
        text: what was typed.
        where: how the complaint begins.

    Raises:
        UserError: the text is something else, or names more than 100,000 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f'{where}: expected numbers and ranges like 0-15 or 3,7,100-103, got "{text[:100]}"')
        if len(first) > 30 or len(last) > 30:
            raise UserError(f"{where}: each is at most {MAX_SEED}")
        low, high = int(first), int(last) if dash else int(first)
        if high < low:
            raise UserError(f"{where}: {part.strip()} runs backwards; write {high}-{low}")
        if high > MAX_SEED or high - low + len(seeds) >= 100_000:
            raise UserError(f"{where}: at most 100,000 at a time, each up to {MAX_SEED}")
        seeds.extend(range(low, high + 1))
    return seeds


def seeded_inputs(generator: Generator, seeds: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The latents and noise maps that seeds stand for, drawn on the CPU so that every device agrees.

    Where the generator has anchors, a seed's latent lies around one of them: what the training pictures have in the
    measure in which they have it. Otherwise it is anywhere.

    Args:
        generator: the network they are for.
        seeds: whole numbers from 0 to 2**32 - 1.

    Returns:
        Latents [N, Z], and one tensor [N, 1, h, w] per noise map of the network.

    Raises:
        UserError: a seed is not such a number.
    """
    latents: list[Tensor] = []
    noise: list[list[Tensor]] = []
    chosen: list[Tensor] = []
    anchors = generator.anchors
    for seed in map(_whole, seeds):
        source = torch.Generator("cpu").manual_seed(seed)
        # Whatever else this program has made PyTorch's default.
        fixed = {"generator": source, "device": "cpu", "dtype": torch.float32}
        latents.append(torch.randn(generator.config.z_dim, **fixed))
        if anchors is not None:  # before the noise: the same one at any size
            chosen.append(torch.randint(len(anchors), (), generator=source, device="cpu"))
        noise.append([torch.randn(1, *size, **fixed) for size in generator.noise_sizes()])
    z = torch.stack(latents)
    if anchors is not None:
        z = around(anchors.float().cpu()[torch.stack(chosen)], z, generator.config.spread)
    return z, [torch.stack(maps) for maps in zip(*noise, strict=True)]


def check_psi(psi: float, where: str = "psi") -> None:
    """Raise a UserError, which begins with `where`, unless this is a truncation: a number from 0 to 2."""
    if not 0 <= psi <= 2:
        raise UserError(f"{where}: expected a number from 0 to 2, got {psi:g}")


def _whole(seed: Any) -> int:
    """A seed of any whole kind, NumPy's and PyTorch's too, as a number."""
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MAX_SEED:
        raise UserError(f"seed: expected a whole number from 0 to {MAX_SEED}, got {seed!r}")
    return number


def at_a_time(weight: Tensor, batch_size: int) -> int:
    """How many pictures a generator with such weights draws together: one by one where they are to be exact."""
    return 1 if weight.device.type == "cpu" and weight.dtype == torch.float32 else batch_size


@torch.inference_mode()
def draw(
    generator: Generator,
    z: Tensor,
    noise: list[Tensor] | None = None,
    style_z: Tensor | None = None,
    style_strength: float | Mapping[int, float] = 1.0,
    batch_size: int = 8,
) -> Iterator[Tensor]:
    """Pictures for latents, a few at a time: uint8 [n, C, H, W] on the CPU.

    On a CPU each picture is drawn alone in single precision: convolutions round differently in batches of different
    sizes, and alone a seed's picture is the same to the last bit in any company. In half precision speed comes first.

    Args:
        generator: drawn from as in eval mode.
        z: latents for the main path, [N, Z].
        noise: maps as from :func:`seeded_inputs`, for the same N; those of seed 0 for all when not given.
        style_z, style_strength: as in :meth:`fastgan.models.Generator.forward`.
        batch_size: pictures at a time on other devices and in half precision.
    """
    generator = folded(generator)
    weight = next(generator.parameters())
    step = at_a_time(weight, batch_size)
    if noise is None:
        noise = [maps.expand(len(z), -1, -1, -1) for maps in seeded_inputs(generator, [0])[1]]
    for start in range(0, len(z), step):
        part = slice(start, start + step)
        style = None if style_z is None else style_z[part].to(weight)
        maps = [level[part].to(weight) for level in noise]
        with torch.autocast(weight.device.type, enabled=False):  # whatever its caller computes in
            images = generator(z[part].to(weight), style, style_strength, noise=maps).full
        yield to_uint8(images).cpu()


def sample(
    generator: Generator,
    seeds: Iterable[int],
    psi: float = 1.0,
    style_seeds: Iterable[int] | None = None,
    style_strength: float | Mapping[int, float] = 1.0,
    batch_size: int = 8,
) -> Iterator[Tensor]:
    """One picture per seed, a few at a time: uint8 [n, C, H, W].

    Args:
        generator: drawn from as in eval mode.
        seeds: which pictures: whole numbers from 0 to 2**32 - 1.
        psi: truncation; latents are scaled by it: 1 is off, lower is less varied with fewer accidents.
        style_seeds: as many seeds, whose latents drive the gates; noise stays that of `seeds`.
        style_strength, batch_size: as in :func:`draw`.

    Raises:
        UserError: a seed, psi or a strength is out of range, there is no such gate, or the seeds do not pair up.
    """
    check_psi(psi)
    _check_strength(style_strength, generator.config.gates)
    try:
        seeds, style_seeds = list(seeds), None if style_seeds is None else list(style_seeds)
    except TypeError:
        raise UserError("seeds: expected several, as in [0, 1, 2]; one alone is [0]") from None
    if style_seeds is not None and len(style_seeds) != len(seeds):
        raise UserError(f"style seeds: expected {len(seeds)}, one per picture, got {len(style_seeds)}")
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        z, noise = seeded_inputs(generator, seeds[part])
        style_z = None if style_seeds is None else psi * seeded_inputs(generator, style_seeds[part])[0]
        yield from draw(generator, psi * z, noise, style_z, style_strength, batch_size)


def _check_strength(strength: float | Mapping[int, float], gates: Sequence[int]) -> None:
    """Raise a UserError unless these are strengths of gates that there are."""
    if isinstance(strength, Mapping) and (unknown := [level for level in strength if level not in gates]):
        raise UserError(
            f"style strength: no gate {unknown[0]!r}; this model has {', '.join(map(str, gates)) or 'none'}"
        )
    for value in strength.values() if isinstance(strength, Mapping) else [strength]:
        if not 0 <= value <= 1:
            raise UserError(f"style strength: expected a number from 0 to 1, got {value!r}")


def to_pil(image: Tensor) -> Image.Image:
    """One picture, uint8 [C, H, W] with 1, 3 or 4 channels, for saving and showing."""
    array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)


def png_info(model: str, revision: str, **facts: object) -> PngInfo:
    """PNG metadata that says how to draw the picture again: `fastgan:model`, `fastgan:revision`, and the facts.

    Args:
        model: Hub id, or name of the run folder.
        revision: of a Hub model; empty when there is none.
        facts: seed and psi, and whatever else the picture depends on.
    """
    info = PngInfo()
    for key, value in {"model": model, "revision": revision, **facts}.items():
        info.add_text(f"fastgan:{key}", str(value))
    return info


def grid(images: Tensor | Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """A contact sheet of pictures, uint8 [N, C, H, W] or PIL's; as square as it gets unless `columns` is given."""
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.utils import make_grid

    if not isinstance(images, Tensor):
        images = torch.stack([pil_to_tensor(image) for image in images])
    columns = columns or int(np.ceil(len(images) ** 0.5))
    sheet = make_grid(images, nrow=columns, padding=2, pad_value=255)
    return to_pil(sheet[:1] if images.shape[1] == 1 else sheet)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point on the great circle from a to b, which keeps normal draws typical (arXiv:1609.04468).

    Args:
        a, b: of one shape, taken as vectors whole.
        share: 0 gives a and 1 gives b, both exactly.
    """
    cosine = F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).clamp(-1, 1).item()
    angle = math.acos(cosine)
    if math.sin(angle) < 1e-6:  # parallel: there is no circle, and a straight line is the same
        return torch.lerp(a, b, share)
    return a * (math.sin((1 - share) * angle) / math.sin(angle)) + b * (math.sin(share * angle) / math.sin(angle))


class Step(NamedTuple):
    """A frame of a walk: between which two keys, and how far from the first to the second, 0 to 1."""

    start: int
    end: int
    share: float


def walk(keys: int, between: int, smooth: bool = False, loop: bool = False) -> list[Step]:
    """The frames of a walk over keys; every key is a frame.

    Args:
        keys: how many, at least 2.
        between: frames from one key to the next, the key itself counted.
        smooth: slow near the keys (3t² - 2t³) rather than even.
        loop: back to the first key at the end, so that the last frame leads to the first.

    Raises:
        UserError: fewer than two keys, or no frame between them.
    """
    if keys < 2 or between < 1:
        raise UserError(f"a walk needs at least 2 keys and 1 frame between them, got {keys} and {between}")
    shares = [frame / between for frame in range(between)]
    if smooth:
        shares = [share * share * (3 - 2 * share) for share in shares]
    steps = [Step(key, (key + 1) % keys, share) for key in range(keys if loop else keys - 1) for share in shares]
    return steps if loop else [*steps, Step(keys - 1, keys - 1, 0.0)]


def interpolate(
    generator: Generator,
    z: Tensor,
    noise: list[Tensor],
    steps: Sequence[Step],
    spherical: bool = True,
    style_z: Tensor | None = None,
    style_strength: float | Mapping[int, float] = 1.0,
) -> Iterator[Tensor]:
    """The frames of a walk, one at a time: uint8 [1, C, H, W]. A frame at a key is that key's picture, bit for bit.

    Args:
        generator: in eval mode.
        z, noise: of the keys, as from :func:`seeded_inputs`, z scaled by psi where wanted.
        steps: as from :func:`walk`.
        spherical: latents follow the great circle rather than a straight line; noise always does, or it would fade.
        style_z: one latent [1, Z] that holds gates still over the whole walk.
        style_strength: which gates and how strongly, as in :meth:`fastgan.models.Generator.forward`.
    """
    for start, end, share in steps:
        between = slerp if spherical else torch.lerp
        frame = between(z[start], z[end], share)[None]
        maps = [slerp(keys[start], keys[end], share)[None] for keys in noise]
        yield from draw(generator, frame, maps, style_z, style_strength)


def mix_grid(
    generator: Generator,
    z: Tensor,
    noise: list[Tensor],
    style_z: Tensor,
    style_strength: float | Mapping[int, float] = 1.0,
) -> Iterator[Tensor]:
    """Every content with every style, row by row: uint8 [1, C, H, W] (arXiv:2101.04775, sec. 3.1).

    Args:
        generator: in eval mode.
        z, noise: of the contents, one per row.
        style_z: latents of the styles, one per column, [M, Z].
        style_strength: which gates and how strongly, as in :meth:`fastgan.models.Generator.forward`.
    """
    for row in range(len(z)):
        maps = [contents[row : row + 1] for contents in noise]
        for column in range(len(style_z)):
            yield from draw(generator, z[row : row + 1], maps, style_z[column : column + 1], style_strength)


def mix_sheet(
    generator: Generator,
    contents: Sequence[int],
    styles: Sequence[int],
    psi: float = 1.0,
    style_strength: float | Mapping[int, float] = 1.0,
) -> Iterator[Tensor]:
    """The cells of a mixing sheet row by row, uint8 [1, C, H, W]: a blank one and every style, then every content and
    what it becomes with each style (arXiv:2101.04775, sec. 4.3).

    Args:
        generator: in eval mode.
        contents, styles: seeds, one per row and one per column.
        psi, style_strength: as in :func:`sample`.
    """
    z, noise = seeded_inputs(generator, contents)
    mixes = mix_grid(generator, psi * z, noise, psi * seeded_inputs(generator, styles)[0], style_strength)
    head = list(sample(generator, styles, psi, batch_size=1))
    yield torch.full_like(head[0], 255)
    yield from head
    for content in sample(generator, contents, psi, batch_size=1):
        yield content
        yield from itertools.islice(mixes, len(styles))


@torch.no_grad()
def directions(generator: Generator, count: int = 10) -> Tensor:
    """The unit latents along which the first layer changes most, most first: [count, Z] (arXiv:2007.06600).

    They are eigenvectors of WWᵀ, with W the first layer's weight and the batch normalisation behind it in one.
    Their signs are chosen so that the largest entry is positive.

    Args:
        generator: in eval mode.
        count: how many; no more come than the latent has numbers.
    """
    first = generator.first
    scale = first.norm.weight / (first.norm.running_var + first.norm.eps).sqrt()
    weight = (first.conv.weight * scale[:, None, None]).flatten(1).cpu().double()  # [Z, 2C * h * w]; MPS has no double
    vectors = torch.linalg.eigh(weight @ weight.T).eigenvectors.T.flip(0)[:count]
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return (vectors * largest.sign()).float()
