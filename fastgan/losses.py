"""What the networks learn from: logits or pictures in, one number out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.errors import UserError
from fastgan.features import load_features, to_rgb
from fastgan.models import Images, Reconstructions, quadrant_of

MARGIN = (0.8, 1.0)  # the hinge margin is drawn uniformly from here for every logit, as the original does


def d_hinge(logits: Tensor, real: bool, margin: tuple[float, float] = MARGIN) -> Tensor:
    """The hinge loss that pushes real logits above the margin and fake ones below minus it (arXiv:1705.02894).

    Args:
        logits: any shape.
        real: whether the pictures behind them are real.
        margin: lowest and highest margin; each logit draws its own.
    """
    low, high = margin
    drawn = low + (high - low) * torch.rand_like(logits)
    return F.relu(drawn - logits if real else drawn + logits).mean()


def g_hinge(logits: Tensor) -> Tensor:
    """Minus the mean logit: the generator wants its pictures to be found real."""
    return -logits.mean()


class PerceptualDistance(nn.Module):
    """How different pictures look to a frozen network: the mean over its stages of the squared difference between
    unit-length feature vectors, in the manner of LPIPS (arXiv:1801.03924) without its learned weights.

    Args:
        name: "efficientnet-lite0", whose weights come with a package, or "lpips-vgg", fetched when first used.
    """

    def __init__(self, name: str = "efficientnet-lite0"):
        super().__init__()
        self.name = name
        self.network = _lpips_vgg() if name == "lpips-vgg" else load_features(name)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """How far pictures are from others, which have no gradient.

        Args:
            a: [k * B, C, H, W] in [-1, 1], k sets one after the other.
            b: what each set is held against, [B, C, H, W] in [-1, 1].

        Returns:
            The mean distance.
        """
        if self.name == "lpips-vgg":
            return self.network(to_rgb(a), to_rgb(b).repeat(len(a) // len(b), 1, 1, 1)).mean()
        with torch.no_grad():
            targets = [F.normalize(features, dim=1) for features in self.network(b)]
        features = [F.normalize(features, dim=1).unflatten(0, (-1, len(b))) for features in self.network(a)]
        return sum((x - y).square().sum(dim=2).mean() for x, y in zip(features, targets, strict=True)) / len(features)


def reconstruction(redrawn: Reconstructions, images: Images, quadrant: int, distance: PerceptualDistance) -> Tensor:
    """How far D's decoders are from the real pictures: whole, quadrant and small branch added up.

    Source: arXiv:2101.04775, sec. 3.2.

    Args:
        redrawn: what D made of `images` with that `quadrant`.
        images: the real pictures that D saw, augmentation included.
        quadrant: 0 to 3, see :func:`fastgan.models.quadrant_of`.
        distance: compares two batches of pictures.
    """
    size = redrawn.whole.shape[2:]
    whole = F.interpolate(images.full, size=size, mode="area")
    part = quadrant_of(images.full, quadrant)
    part = F.interpolate(part, size=size, mode="area" if part.shape[2] >= size[0] else "bilinear")
    both = torch.cat([redrawn.whole, redrawn.small])  # so the real pictures go through the network once
    return 2 * distance(both, whole) + distance(redrawn.quadrant, part)


def _lpips_vgg() -> nn.Module:
    try:
        import lpips
    except ImportError:
        raise UserError('--perceptual lpips-vgg needs the package lpips: pip install -e ".[lpips]"') from None
    try:
        network = lpips.LPIPS(net="vgg", verbose=False)
    except OSError as error:
        raise UserError(
            f"--perceptual lpips-vgg: could not fetch the VGG weights ({error}); "
            "go online once, or use --perceptual efficientnet-lite0"
        ) from None
    return network.eval().requires_grad_(False)
