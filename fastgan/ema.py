"""The averaged generator: the one that is sampled, measured and published."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, update_bn

from fastgan.anchors import Anchors
from fastgan.models import Generator


class EMA:
    """An exponential moving average of a generator's parameters, counted in images.

    Args:
        generator: copied as it stands; the copy is `ema.model`.
        half_life_kimg: thousands of images after which a change has half arrived; 5.5 is about 0.999 a step of 8.
        warmup: the half-life is at most this share of the images seen so far, so that an early average is not held
            back by the first weights (as in arXiv:2006.06676); 0 is off.
    """

    def __init__(self, generator: Generator, half_life_kimg: float, warmup: float = 0.0):
        self.model = copy.deepcopy(generator).eval().requires_grad_(False)
        self.half_life_images = 1000 * half_life_kimg
        self.warmup = warmup

    @torch.no_grad()
    def update(self, generator: Generator, images: int, seen: int = 0) -> None:
        """Move toward `generator` as far as `images` more pictures go. Buffers are left to :meth:`settle`.

        Args:
            generator: as it is now.
            images: how many pictures it saw since the last call.
            seen: how many it has seen in all; only a warm-up asks for it.
        """
        half_life = min(self.half_life_images, self.warmup * seen) if self.warmup else self.half_life_images
        decay = 0.5 ** (images / max(half_life, 1e-9))
        move = get_ema_multi_avg_fn(decay)
        move(list(self.model.parameters()), [p.detach() for p in generator.parameters()], None)

    def settle(
        self,
        generator: Generator,
        images: int = 128,
        batch_size: int = 8,
        anchors: Anchors | None = None,
    ) -> Generator:
        """The averaged generator ready for eval mode, its buffers made for its own parameters.

        The running statistics of a generator that trains belong to other weights than the averaged ones. Batch-norm
        statistics are measured afresh over `images` latents with a fixed seed, and spectral norm's vectors iterate
        along, starting from the generator's. The random state of the caller is put back.

        Args:
            generator: the one that trains.
            images, batch_size: latents that statistics are measured over, and how many at a time.
            anchors: what seeds' latents are to lie around, as of :meth:`fastgan.models.Generator.anchored`.
        """
        for mine, theirs in zip(self.model.buffers(), generator.buffers(), strict=True):
            mine.copy_(theirs)
        settled = self.model if anchors is None else self.model.anchored(anchors)
        reestimate_batch_norm(settled, images, batch_size)
        return settled


@torch.no_grad()
def reestimate_batch_norm(generator: Generator, images: int = 128, batch_size: int = 8) -> None:
    """Measure batch-norm statistics of `generator` over `images` seeded latents, in whole batches of at least one.

    It is left in eval mode.
    """
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        update_bn((generator.latents(batch_size) for _ in range(max(1, images // batch_size))), generator)
    generator.eval()
