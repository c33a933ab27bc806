"""Places in the latent space from which real pictures are to be drawn."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 32  # components; of few pictures, later ones tell chance
SPREAD = 0.6  # standard deviation of latents around an anchor
REACH = 3.0  # standard deviations; hardly a latent lies farther out
LEAST = 1e-3  # deviation of a component, where a whole view's is 1: what differs less is rounding


@dataclass
class Anchors:
    """Latents that stand for pictures: the principal components of what a frozen network sees in them, whitened.

    So they are spread as latents are, with a mean of 0 and a deviation of 1, and nothing of them has to be learnt.

    Attributes:
        mean: of what was seen, [D].
        axes: from there to an anchor, [D, n].
        seen: the anchors of pictures, [N, n].
    """

    mean: Tensor
    axes: Tensor
    seen: Tensor

    @classmethod
    def fit(cls, views: list[Tensor], z_dim: int) -> "Anchors":
        """Find the components.

        Args:
            views: what was seen in pictures, [N, D_i] each; every view counts as much as any other.
            z_dim: length of a latent; there are as many components at most.
        """
        # On the CPU in float64, which not every device has: it is done once.
        parts = [view.cpu().double() for view in views]
        spreads = [part.var(0, correction=0).sum().sqrt().clamp(min=LEAST) for part in parts]
        units = torch.cat([spread.expand_as(part[0]) for spread, part in zip(spreads, parts, strict=True)])
        mean = torch.cat([part.mean(0) for part in parts])
        _, sizes, directions = torch.linalg.svd((torch.cat(parts, dim=1) - mean) / units, full_matrices=False)
        deviations = sizes / len(parts[0]) ** 0.5
        count = min(z_dim, MOST, int((deviations > LEAST).sum()))
        axes = directions[:count].T / deviations[:count] / units[:, None]
        mean, axes = (tensor.float().contiguous().to(views[0].device) for tensor in (mean, axes))
        return cls(mean, axes, _anchors(views, mean, axes))

    def refit(self, views: list[Tensor]) -> "Anchors":
        """The same components with a mean of 0 and a deviation of 1 over other pictures.

        So what a generator draws where stays as it is, as nearly as may be, when it goes on with these.

        Args:
            views: as for :meth:`fit`.
        """
        seen = torch.cat(views, dim=1)
        mean = seen.mean(0)
        axes = self.axes / ((seen - mean) @ self.axes).std(0, correction=0).clamp(min=LEAST)
        return Anchors(mean, axes, _anchors(views, mean, axes))

    def to(self, device: torch.device) -> "Anchors":
        """The same on a device."""
        return Anchors(self.mean.to(device), self.axes.to(device), self.seen.to(device))

    def __call__(self, views: list[Tensor]) -> Tensor:
        """Anchors of pictures, [B, n].

        Args:
            views: what was seen in them, [B, D_i] each, as for :meth:`fit`.
        """
        return _anchors(views, self.mean, self.axes)


def _anchors(views: list[Tensor], mean: Tensor, axes: Tensor) -> Tensor:
    return ((torch.cat(views, dim=1) - mean) @ axes).clamp(-REACH, REACH)


def around(anchors: Tensor, z: Tensor, spread: float) -> Tensor:
    """Latents around anchors, as normal as others, [B, z_dim].

    Args:
        anchors: one for each latent, [B, n].
        z: latents that are anywhere, [B, z_dim]; what is beyond the first n numbers stays theirs.
        spread: standard deviation around an anchor, 0 to 1; 1 is anywhere.
    """
    n = anchors.shape[1]
    return torch.cat([(1 - spread**2) ** 0.5 * anchors + spread * z[:, :n], z[:, n:]], dim=1)
