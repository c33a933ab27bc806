"""A picture to the latent that draws it most nearly, and latents as short texts."""

import base64
import binascii
import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.optim.adam import adam

from fastgan.anchors import around
from fastgan.errors import UserError
from fastgan.features import FeatureNetwork
from fastgan.losses import PerceptualDistance
from fastgan.models import Generator, downscale
from fastgan.pixels import to_float
from fastgan.preparing import FORMATS, Preparation, prepare
from fastgan.projected import told_of
from fastgan.sampling import draw, seeded_inputs

CODE_PREFIX = "z"
MAX_BYTES = 20 * 2**20  # of a picture file
MAX_PIXELS = 50_000_000  # of a picture, before it is brought to the model's size
LOOK_AT = 256  # pixels: larger pictures are compared perceptually at about this size
RATE = 0.1  # of Adam, at its height
MEASURE = 8  # steps between looks at what is really drawn
WARM_UP, NARROW, COOL_DOWN = 0.05, 0.25, 0.5  # shares of all steps: until full rate; with all starts; slowing down


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


class Projection(NamedTuple):
    """The nearest that has been found of a picture; `done` of `steps` are behind."""

    z: Tensor  # [Z], rounded as a code holds it
    noise: list[Tensor]  # one map [1, 1, h, w] per entry of Generator.noise_sizes()
    image: Tensor  # uint8 [1, C, H, W]: what the generator draws from z and noise
    target: Tensor  # uint8 [1, C, H, W]: the picture as the generator could draw it at best
    perceptual: float  # distance of the two to a frozen network, from 0; see PerceptualDistance
    pixel: float  # root mean square difference of the two, 0 to 255
    by_chance: float  # the perceptual distance of a seed's picture, on average: what to hold `perceptual` against
    done: int
    steps: int


def open_picture(source: bytes | Path, what: str) -> Image.Image:
    """A picture from a stranger, not yet decoded, whose size is known to be bearable.

    Args:
        source: the file or its content.
        what: names it in an error.

    Raises:
        UserError: it is too large in bytes or pixels, or no picture.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{what}: {size / 2**20:.0f} MiB are too many; at most {MAX_BYTES / 2**20:.0f}")
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        raise UserError(f"{what}: not a picture that can be read, try a PNG or JPEG") from None
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{what}: {image.width}x{image.height} pixels are too many; at most {MAX_PIXELS // 10**6} million"
        )
    return image


def project(
    generator: Generator,
    picture: Image.Image | str | Path,
    *,
    starts: int = 48,
    keep: int = 3,
    steps: int = 120,
    fit_noise: bool = False,
    seed: int = 0,
) -> Iterator[Projection]:
    """Search for the latent that draws a picture; the best so far comes after every step, the result last.

    The best of many seeds, and of the place that a model with anchors has for the picture, are improved by gradient
    descent, and from a quarter of the steps on the best one alone. The loss is perceptual plus squared pixel
    difference; the latent is held to the length that normal draws have.

    Args:
        generator: in eval mode.
        picture: any, from :func:`open_picture`, or its file; its middle is cut to the generator's shape.
        starts: how many seeds are looked at.
        keep: how many of them are improved.
        steps: of gradient descent.
        fit_noise: search the noise as well, kept from holding any of the picture's structure by the regularisation
            of arXiv:1912.04958, appendix D. Otherwise the noise stays that of seed 0.
        seed: of the first start.

    Raises:
        UserError: the picture is damaged, or a number makes no sense.
    """
    if not 1 <= keep <= starts or steps < 1:
        raise UserError(f"project: expected starts >= keep >= 1 and steps >= 1, got {starts}, {keep} and {steps}")
    config, device = generator.config, generator.device
    if not isinstance(picture, Image.Image):
        picture = open_picture(Path(picture), str(picture))
    try:
        pixels = torch.from_numpy(prepare(picture, Preparation((config.height, config.width), config.channels)).copy())
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise UserError("that picture is damaged; try another, or save it anew as PNG") from None
    target = pixels.permute(2, 0, 1)[None]
    wanted = to_float(target.to(device))
    distance = PerceptualDistance().to(device)
    factor = max(1, config.level // LOOK_AT)

    def differ(images: Tensor) -> tuple[Tensor, Tensor]:
        """Perceptual and squared pixel difference to the picture, each the mean over a batch."""
        small = downscale(wanted, factor).expand(len(images), -1, -1, -1)
        return distance(downscale(images, factor), small), F.mse_loss(images, wanted.expand_as(images))

    fixed = seeded_inputs(generator, [0])[1]
    own = place_of(generator, wanted, distance.network)
    latents = (seeded_inputs(generator, [start])[0][0] for start in range(seed, seed + starts))
    found: Projection | None = None
    by_chance = 0.0

    def look(z: Tensor, noise: list[Tensor]) -> Projection:
        """What is really drawn from this latent, rounded as everything that is saved."""
        z = z.detach().cpu().half().float()
        [image] = draw(generator, z[None], noise)
        with torch.no_grad():
            perceptual, squared = (part.item() for part in differ(to_float(image.to(device))))
        return Projection(z, noise, image, target, perceptual, 127.5 * math.sqrt(squared), by_chance, 0, steps)

    def look_at_all(z: Tensor, noise: list[Tensor]) -> list[Projection]:
        return [look(one, [maps[i : i + 1].detach().cpu() for maps in noise]) for i, one in enumerate(z)]

    def loss_of(at: Projection) -> float:
        return at.perceptual + (at.pixel / 127.5) ** 2

    looked: list[Projection] = []
    for latent in itertools.chain(latents, [] if own is None else [own]):
        looked.append(look(latent, fixed))
        chances = [one.perceptual for one in looked[:starts]]
        by_chance = sum(chances) / len(chances)
        found = min(found or looked[0], looked[-1], key=loss_of)._replace(by_chance=by_chance)
        yield found

    def begin(z: Tensor, noise: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor], _Adam]:
        """Copies that can learn, those of them that do, and what makes them."""
        z = z.detach().clone().requires_grad_()
        noise = [maps.detach().clone().requires_grad_(fit_noise) for maps in noise]
        free = [z, *noise] if fit_noise else [z]
        return z, noise, free, _Adam(free)

    best = torch.stack([one.z for one in sorted(looked, key=loss_of)[:keep]]).to(device)
    z, noise, free, optimizer = begin(best, [maps.to(device).expand(keep, -1, -1, -1) for maps in fixed])
    for step in range(steps):
        if step == int(NARROW * steps) and len(z) > 1:
            losses = [loss_of(one) for one in look_at_all(z, noise)]
            first = losses.index(min(losses))
            z, noise, free, optimizer = begin(z[first : first + 1], [maps[first : first + 1] for maps in noise])
        with torch.enable_grad():
            perceptual, squared = differ(generator(z.to(generator.dtype), noise=noise).full.float())
            length = (z.square().mean(dim=1) - 1).square().mean()
            loss = perceptual + squared + 0.1 * length + (noise_structure(noise) if fit_noise else 0.0)
            # The generator belongs to others too: its weights must gather no gradient.
            gradients = torch.autograd.grad(loss, free)
        optimizer.step(gradients, RATE * _pace(step / steps))
        with torch.no_grad():
            if fit_noise:
                for maps in noise:
                    maps.sub_(maps.mean(dim=(1, 2, 3), keepdim=True)).div_(maps.std(dim=(1, 2, 3), keepdim=True))
        if (step + 1) % MEASURE == 0 or step + 1 == steps:
            found = min(found, *look_at_all(z, noise), key=loss_of)
        found = found._replace(done=step + 1)
        yield found


@torch.no_grad()
def place_of(generator: Generator, image: Tensor, network: FeatureNetwork) -> Tensor | None:
    """Where in the latent space a generator with anchors would have learnt a picture, [Z]; None if it has none.

    Args:
        generator: any.
        image: [1, C, H, W] in [-1, 1].
        network: what its anchors were found with.
    """
    places = generator.places
    if places is None:
        return None
    told = told_of(image, network)
    if sum(part.shape[1] for part in told) != generator.config.anchor_views:
        return None  # a stranger's, found in another way
    nothing = torch.zeros(1, generator.config.z_dim, device=image.device)
    return around(places(told), nothing, spread=0.0)[0].cpu()


class _Adam:
    """Adam of torch.optim, but for a look at the GPU, which ends the server process of a ZeroGPU Space.

    Args:
        parameters: changed in place.
    """

    def __init__(self, parameters: list[Tensor]):
        self.parameters = parameters
        self.means, self.squares = ([torch.zeros_like(part) for part in parameters] for _ in range(2))
        self.steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """Follow these gradients."""
        adam(
            self.parameters,
            list(gradients),
            self.means,
            self.squares,
            [],
            self.steps,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def noise_structure(noise: list[Tensor]) -> Tensor:
    """How far noise maps are from white noise: squared autocorrelation at a shift of one, at every scale from 8 up.

    Source: arXiv:1912.04958, appendix D.
    """
    total = noise[0].new_zeros(())
    for maps in noise:
        while True:
            total = (
                total + (maps * maps.roll(1, dims=2)).mean().square() + (maps * maps.roll(1, dims=3)).mean().square()
            )
            if min(maps.shape[2:]) <= 8:
                break
            maps = 2 * F.avg_pool2d(maps, 2)  # the mean of four, with the variance of one
    return total


def _pace(share: float) -> float:
    """The learning rate over the search: up at once, level, then down along a cosine."""
    down = min(1.0, (1 - share) / COOL_DOWN)
    return min(1.0, share / WARM_UP + 0.1) * 0.5 * (1 - math.cos(math.pi * down))
