"""What teaches the generator: the published discriminator or the projected one, each with its losses and its order."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.anchors import SPREAD, Anchors, around
from fastgan.augment import augment
from fastgan.config import TrainConfig
from fastgan.losses import PerceptualDistance, d_hinge, g_hinge, reconstruction
from fastgan.models import Discriminator, Images, Reconstructions, downscale, quadrant_of
from fastgan.projected import (
    MixedFeatures,
    ProjectedDiscriminator,
    energy_distance,
    on_colours,
    paired_distance,
    summaries,
    told_of,
)

KEPT = 256  # real pictures whose views are remembered, and from which anchors are found
PLACES = 64  # translation moves large pictures by multiples of this share of their side, smaller ones by pixels
REMEMBERED = 1024  # anchors that a model is given: of a small set's pictures several each, some of them mirrored
LARGE = 256  # pixels; from here on generators drew thin grey lines at edges, which passed for shifts by a pixel or two


@dataclass
class Players:
    """The two networks and their optimizers, as Accelerate prepared them."""

    generator: nn.Module
    discriminator: nn.Module
    g_optimizer: AcceleratedOptimizer
    d_optimizer: AcceleratedOptimizer


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """The network without gradients for its parameters; their flags are put back as they were."""
    flags = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        yield network
    finally:
        for parameter, flag in zip(network.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


class Objective:
    """A kind of discriminator, and how the two networks train with it.

    Args:
        config: every setting.
        accelerator: carries out the backward passes.
    """

    judges_small = True  # whether the generator's small output is shown to D; else nothing would train it

    def __init__(self, config: TrainConfig, accelerator: Accelerator):
        self.config, self.accelerator = config, accelerator
        self.base: Anchors | None = None  # those of a model that the run starts from

    def discriminator(self) -> nn.Module:
        """A new discriminator, on the CPU."""
        raise NotImplementedError

    def play(self, players: Players, real: Tensor, whole: Tensor) -> dict[str, Tensor]:
        """Let both networks learn from one part of a batch.

        D is shown the drawn pictures first and does not share gradients between processes yet. Its pass on real
        pictures then uses every parameter, so one exchange serves both passes and nothing is left unused.

        Args:
            players: the networks.
            real: pictures, [B, C, H, W] in [-1, 1].
            whole: the same as large as they will be once the run has grown.

        Returns:
            Figures for the log, each a number on the device.
        """
        raise NotImplementedError

    def panel(self) -> list[Tensor]:
        """Rows of up to 8 pictures in [-1, 1] that show what D made of the last real ones, if it makes any."""
        return []

    def memory(self) -> dict[str, Tensor]:
        """What it keeps from step to step, for a checkpoint."""
        return {}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`memory` gave."""

    def lasting(self) -> dict[str, Tensor]:
        """What of :meth:`memory` stays true when pictures become larger."""
        return {}

    def anchors_of_seeds(self) -> Anchors | None:
        """What the latents of a model's seeds are to lie around; None, and they are anywhere."""
        return None

    def _learn(self, loss: Tensor, optimizer: AcceleratedOptimizer) -> None:
        """One network's gradients, and its step where the batch is whole."""
        self.accelerator.backward(loss)
        if self.accelerator.sync_gradients:
            if scaler := self.accelerator.scaler:
                scaler.step(optimizer.optimizer)  # Accelerate's own would renew the scale between the two networks
            else:
                optimizer.step()
            optimizer.zero_grad()

    def _renew_scale(self) -> None:
        """Once both networks have had their step: what is left of a batch is scaled as its beginning was."""
        if self.accelerator.scaler and self.accelerator.sync_gradients:
            self.accelerator.scaler.update()


class PaperObjective(Objective):
    """FastGAN as published: patch logits from two sizes, and decoders that redraw real pictures (arXiv:2101.04775)."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.distance = None
        if config.reconstruction_weight:
            self.distance = PerceptualDistance(config.perceptual).to(accelerator.device)
        self.last: tuple[Tensor, Reconstructions, int] | None = None

    def discriminator(self) -> Discriminator:
        network = Discriminator(self.config.model, self.config.ndf)
        if self.distance is None:
            for decoder in (network.decode_whole, network.decode_quadrant, network.decode_small):
                decoder.requires_grad_(False)  # nothing would train them
        return network

    def play(self, players: Players, real: Tensor, whole: Tensor) -> dict[str, Tensor]:
        config, accelerator = self.config, self.accelerator
        quadrant = int(torch.randint(4, ()))  # on the CPU: no wait for the device
        z = torch.randn(len(real), config.z_dim, device=real.device)
        real_images = self._both_sizes(augment(real, config.augmentations, config.cutout))
        fake_images = players.generator(z)

        with accelerator.no_sync(players.discriminator):
            fake_logits, _ = players.discriminator(self._augmented(Images(*(x.detach() for x in fake_images))))
            fake_loss = mean(d_hinge(logits, real=False) for logits in fake_logits)
            accelerator.backward(fake_loss)
        real_logits, redrawn = players.discriminator(real_images, None if self.distance is None else quadrant)
        real_loss = mean(d_hinge(logits, real=True) for logits in real_logits)
        redrawn_loss = torch.zeros_like(real_loss)
        if self.distance is not None:
            with accelerator.autocast():
                redrawn_loss = reconstruction(redrawn, real_images, quadrant, self.distance)
            self.last = real_images.full[:8], redrawn, quadrant
        self._learn(real_loss + config.reconstruction_weight * redrawn_loss, players.d_optimizer)

        with frozen(accelerator.unwrap_model(players.discriminator)) as judge:
            logits, _ = judge(self._augmented(fake_images))
            g_loss = mean(g_hinge(part) for part in logits)
            self._learn(g_loss, players.g_optimizer)
        self._renew_scale()
        return figures(real_loss + fake_loss, g_loss, real_logits, fake_logits) | {"loss/reconstruction": redrawn_loss}

    def panel(self) -> list[Tensor]:
        """Real pictures, redrawn whole, redrawn by the small branch, a quadrant of them, and that redrawn."""
        if self.last is None:
            return []
        full, redrawn, quadrant = self.last
        return [full, redrawn.whole[:8], redrawn.small[:8], quadrant_of(full, quadrant), redrawn.quadrant[:8]]

    def _augmented(self, images: Images) -> Images:
        """Drawn pictures as D sees them: each size changed by itself."""
        return Images(*(augment(x, self.config.augmentations, self.config.cutout) for x in images))

    def _both_sizes(self, full: Tensor) -> Images:
        """Real pictures as D sees them: the small ones are the full ones downscaled."""
        return Images(full, downscale(full, self.config.model.level // self.config.model.small_level))


class ProjectedObjective(Objective):
    """Heads on frozen features and patches on pixels (arXiv:2111.01007); the generator is still FastGAN's.

    Beside what the discriminator says, the generator is held to the real pictures' distribution of features: that
    gives it the common layout within the first minute, and keeps pictures from being alike. One drawing and one pass
    of it through the frozen network serve all of it. What the network saw in the last real pictures stays true and is
    kept: the few of one step are a poor likeness of the whole set.

    And each real picture has a place in the latent space: a step's latents lie around the anchors
    (:class:`fastgan.anchors.Anchors`) of its real pictures, and what half of them become is held to these. So there is
    nothing in the set that no latent leads to. In kind that is an autoencoder joined to a GAN (arXiv:1512.09300) whose
    encoder is fixed. Seeds' latents lie around such anchors, too.
    """

    judges_small = False
    margin = (1.0, 1.0)

    def __init__(self, config: TrainConfig, accelerator: Accelerator):
        super().__init__(config, accelerator)
        self.features = MixedFeatures().to(accelerator.device)
        self.kept: list[Tensor] = []  # views of the last real pictures, the newest first
        self.told: list[Tensor] = []  # what anchors will be made from, until there are enough
        self.anchors: Anchors | None = None
        self.parts: list[list[Tensor]] = []  # those of the step at hand

    def discriminator(self) -> ProjectedDiscriminator:
        return ProjectedDiscriminator(self.config.model)

    def play(self, players: Players, real: Tensor, whole: Tensor) -> dict[str, Tensor]:
        accelerator, config = self.accelerator, self.config
        seed = torch.initial_seed()  # of this step; no device has to be waited for
        told = self._told(whole)
        real = opaque(as_changed(real, config, seed + 1))
        with accelerator.autocast(), torch.no_grad():
            seen = self.features(real)
        views = summaries(seen.plain, real)
        torch.manual_seed(seed)  # what is drawn does not hang on how real pictures were changed
        z = torch.randn(len(real), config.z_dim, device=real.device)
        pairs = 0
        if self.anchors:
            anchors = self.anchors(told)
            pairs, z, told = len(real) // 2, around(anchors, z, SPREAD), [anchors]
        fake = opaque(as_changed(players.generator(z).full, config, seed + 1))
        with accelerator.autocast():
            drawn = self.features(fake)

        with parametrize.cached():  # both passes see the same weights
            with accelerator.no_sync(players.discriminator):
                fake_logits = players.discriminator([x.detach() for x in drawn.mixed], fake.detach())
            real_logits = players.discriminator(seen.mixed, real)
        fake_loss = mean(d_hinge(logits, real=False, margin=self.margin) for logits in fake_logits)
        real_loss = mean(d_hinge(logits, real=True, margin=self.margin) for logits in real_logits)
        self._learn(real_loss + fake_loss, players.d_optimizer)

        with frozen(accelerator.unwrap_model(players.discriminator)) as judge:
            g_loss = mean(g_hinge(logits) for logits in judge(drawn.mixed, fake))
            energy = anchored = torch.zeros_like(g_loss)
            if config.energy_weight or config.anchor_weight:
                mine, known = summaries(drawn.plain, fake), newest_first(views, self.kept)
                if config.energy_weight:
                    energy = energy_distance(mine, known)
                if pairs:
                    anchored = paired_distance([x[:pairs] for x in mine], [x[:pairs] for x in views], known)
                self._keep(views, told)
            loss = g_loss + config.energy_weight * energy + config.anchor_weight * anchored
            self._learn(loss, players.g_optimizer)
        self._renew_scale()
        distances = {"loss/energy": energy, "loss/anchored": anchored}
        return figures(real_loss + fake_loss, g_loss, real_logits, fake_logits) | distances

    def anchors_of_seeds(self) -> Anchors | None:
        return self.anchors if self.anchors and self.anchors.seen.numel() else None

    def memory(self) -> dict[str, Tensor]:
        return {f"real.{i}": view for i, view in enumerate(self.kept)} | self.lasting()

    def lasting(self) -> dict[str, Tensor]:
        if not self.anchors:
            return {f"told.{i}": part for i, part in enumerate(self.told)}
        return {f"anchors.{name}": part for name, part in vars(self.anchors).items()}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        self.kept, self.told = (list_in(memory, kind) for kind in ("real", "told"))
        if "anchors.seen" in memory:
            self.anchors = Anchors(*(memory[f"anchors.{name}"] for name in ("mean", "axes", "seen")))

    def _told(self, images: Tensor) -> list[Tensor]:
        """What anchors of pictures are made from, [B, D_i] each; nothing where there are to be none."""
        if not self.config.anchor_weight:
            return []
        with self.accelerator.autocast(), torch.no_grad():
            return told_of(images, self.features.network)

    def _keep(self, views: list[Tensor], told: list[Tensor]) -> None:
        """Keep views of real pictures, once a step is whole: those of all its parts and all processes."""
        self.parts.append(views if self.anchors and len(self.anchors.seen) == REMEMBERED else views + told)
        if self.accelerator.sync_gradients:
            step = [torch.cat(parts) for parts in zip(*self.parts, strict=True)]
            if self.accelerator.num_processes > 1:
                widths = [view.shape[1] for view in step]
                step = self.accelerator.gather(torch.cat(step, dim=1)).split(widths, dim=1)  # in one exchange
            self.parts = []
            step, told = step[: len(views)], step[len(views) :]
            self.kept = newest_first(step, self.kept)
            if self.anchors and told:
                self.anchors.seen = torch.cat([self.anchors.seen, *told])[:REMEMBERED]  # seeds keep theirs
            elif told:
                self.told = newest_first(told, self.told)
                if len(self.told[0]) == KEPT:
                    self._find_anchors()

    def _find_anchors(self) -> None:
        """Give real pictures their anchors, where a model that the run starts from would have them if it has some."""
        views = sum(part.shape[1] for part in self.told)
        goes_on = self.base and len(self.base.mean) == views
        anchors = self.base.refit(self.told) if goes_on else Anchors.fit(self.told, self.config.z_dim)
        self.anchors = Anchors(*broadcast(list(vars(anchors).values())))  # machines may round in different ways
        self.told = []


def list_in(memory: Mapping[str, Tensor], kind: str) -> list[Tensor]:
    """Those of a memory's tensors that are called kind.0, kind.1, ... in this order."""
    return [memory[f"{kind}.{i}"] for i in range(sum(name.startswith(f"{kind}.") for name in memory))]


def newest_first(new: Iterable[Tensor], old: list[Tensor]) -> list[Tensor]:
    """Rows of several kinds, [B, D] each, each kind followed by those known before, up to `KEPT`."""
    return [torch.cat(pair)[:KEPT] for pair in zip(new, old, strict=True)] if old else [rows[:KEPT] for rows in new]


def as_changed(images: Tensor, config: TrainConfig, seed: int) -> Tensor:
    """Pictures changed at random, as D sees them.

    With one seed drawn and real pictures are changed in the same ways, one by one, and laid on the same colours by
    :func:`opaque`. So whatever tells them apart, or holds them apart as distributions, is the pictures' own.

    Args:
        images: pictures in [-1, 1], [B, C, H, W].
        config: which changes.
        seed: of the changes; the random state goes on from there.
    """
    torch.manual_seed(seed)
    places = PLACES if min(images.shape[2:]) >= LARGE else None
    return augment(images, config.augmentations, config.cutout, places)


def opaque(images: Tensor) -> Tensor:
    """Pictures without transparency: whoever judges those with it judges them on random colours, [B, 1 or 3, H, W].

    A halo or a hole shows on most. They are laid on them once they are changed: what moves in from outside is
    transparent then, and no edge hides a corner that is not.
    """
    if images.shape[1] < 4:
        return images
    return on_colours(images, torch.rand(len(images), 3, 1, 1, device=images.device, dtype=images.dtype) * 2 - 1)


def objective_of(config: TrainConfig, accelerator: Accelerator) -> Objective:
    """The objective that the recipe names."""
    kind = PaperObjective if config.recipe == "paper" else ProjectedObjective
    return kind(config, accelerator)


def figures(d_loss: Tensor, g_loss: Tensor, real_logits: Iterable[Tensor], fake_logits: Iterable[Tensor]) -> dict:
    """What the log says of any objective."""
    return {
        "loss/d": d_loss,
        "loss/g": g_loss,
        "logits/real": mean(part.mean() for part in real_logits),
        "logits/fake": mean(part.mean() for part in fake_logits),
        # 1 where D recognises every training picture as real, 0 where it guesses (arXiv:2006.06676).
        "d_overfitting": mean(part.sign().mean() for part in real_logits),
    }


def mean(values: Iterable[Tensor]) -> Tensor:
    """The mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)
