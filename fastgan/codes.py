"""Latents of real pictures: where in the latent space each of them is to be drawn from."""

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 32  # components; of few pictures, later ones tell chance
REACH = 3.0  # standard deviations; hardly a latent lies farther out
LEAST = 1e-3  # deviation of a component, where a whole view's is 1: what differs less is rounding
LEAST = 1e-3  # deviation of a component, where a whole view's is 1: what differs less is rounding


@dataclass
class Codes:
    """Principal components of what a frozen network sees in pictures, whitened: as latents are, 0 and 1 on average.

    Nothing of them is learnt, so a picture keeps its code from the first step to the last.

    Attributes:
        mean: of what was seen, [D].
        axes: from there to a code, [D, n].
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, views: list[Tensor], z_dim: int) -> "Codes":
        """The components of some pictures.

        Args:
            views: what was seen in them, [N, D_i] each; every view counts as much as any other.
            z_dim: length of a latent; there are as many components at most.
        """
        # On the CPU in float64, which not every device has: it is done once.
        parts = [view.cpu().double() for view in views]
        mean = torch.cat([part.mean(0) for part in parts])
        spreads = [part.var(0, correction=0).sum().sqrt().clamp(min=LEAST) for part in parts]
        units = torch.cat([spread.expand_as(part[0]) for spread, part in zip(spreads, parts, strict=True)])
        _, sizes, directions = torch.linalg.svd((torch.cat(parts, dim=1) - mean) / units, full_matrices=False)
        deviations = sizes / len(parts[0]) ** 0.5
        count = min(z_dim, MOST, int((deviations > LEAST).sum()))
        axes = directions[:count].T / deviations[:count] / units[:, None]
        device = views[0].device
        return cls(mean.float().to(device), axes.float().to(device))

    def __call__(self, views: list[Tensor]) -> Tensor:
        """Codes of pictures, [B, n].

        Args:
            views: what was seen in them, [B, D_i] each, as for :meth:`fit`.
        """
        return ((torch.cat(views, dim=1) - self.mean) @ self.axes).clamp(-REACH, REACH)

    def placed(self, z: Tensor, views: list[Tensor], noise: float) -> Tensor:
        """Latents near pictures' codes, still 0 and 1 on average.

        Args:
            z: normal numbers, [B, z_dim]; what no component tells about is theirs.
            views: of B pictures.
            noise: the share of `z` in what a component tells about, 0 to 1: the standard deviation around a code.
        """
        codes = self(views)
        n = codes.shape[1]
        return torch.cat([(1 - noise**2) ** 0.5 * codes + noise * z[:, :n], z[:, n:]], dim=1)
