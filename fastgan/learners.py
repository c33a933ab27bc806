"""What learns in a run, at one size of pictures: two networks, their optimizers and the average of one of them."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from fastgan.checkpoints import RunState, load_checkpoint, save_checkpoint
from fastgan.config import TrainConfig
from fastgan.ema import EMA
from fastgan.errors import UserError
from fastgan.finetune import Base, double_to, fill_from, freeze_blocks
from fastgan.growing import shrink
from fastgan.models import Generator
from fastgan.objectives import Players, objective_of


class Learners:
    """Generator and discriminator with their optimizers, what teaches them, and the averaged generator.

    There are none before :meth:`build`.

    Args:
        config: every setting.
        accelerator: prepares them for the device and the processes at hand.
        base: a model that they start from.
        say: is told what of it is kept.

    Attributes:
        players: the two networks and their optimizers, as Accelerate prepared them.
        objective: how they learn.
        ema: the averaged generator.
        level: shorter side of the pictures they are for, in pixels.
        part: how many pictures one process takes at a time.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, base: Base | None, say: Callable[[str], None]):
        self.config, self.accelerator, self.base, self.say = config, accelerator, base, say
        self.part = config.batch_size // config.accumulate // accelerator.num_processes

    def build(self, level: int) -> None:
        """Make them for pictures whose shorter side is `level` pixels.

        Raises:
            UserError: the model to start from is damaged, or nothing of it fits that has to.
        """
        self.level, config = level, self.config.at_level(level)
        torch.manual_seed(config.seed)  # every process starts from the same weights
        generator = Generator(config.model)
        self.objective = objective_of(config, self.accelerator)
        generator.to_small.requires_grad_(self.objective.judges_small)
        discriminator = self.objective.discriminator()
        if self.base:
            keeps = self.base.fill(generator, discriminator, self.say)
            if anchors := self.base.anchors(config.z_dim):
                self.objective.base = anchors.to(self.accelerator.device)
            if config.freeze_d and not keeps:
                raise UserError(f"--freeze-d {config.freeze_d}: {self.base.name} brings nothing that could be kept")
        freeze_blocks(discriminator, config.freeze_d)
        # Fused, Adam on MPS takes no notice of the scaling of fp16 (pytorch/pytorch#186360).
        scaled_on_mps = self.accelerator.scaler is not None and self.accelerator.device.type == "mps"
        adam = {"betas": (config.beta1, config.beta2), "fused": config.fast and not scaled_on_mps}
        g_rate, d_rate = (rate or config.learning_rate for rate in (config.g_learning_rate, config.d_learning_rate))
        g_optimizer, d_optimizer = (
            torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate, **adam)
            for network, rate in ((generator, g_rate), (discriminator, d_rate))
        )
        self.ema = EMA(generator.to(self.accelerator.device), config.ema_half_life_kimg, config.ema_warmup)
        if self.base:
            self.base.fill_averaged(self.ema.model)
        with warnings.catch_warnings():
            # PyTorch 2.15 renames the setting that Accelerate passes on; older ones know only this name.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.players = Players(*self.accelerator.prepare(generator, discriminator, g_optimizer, d_optimizer))

    def _discard(self) -> None:
        """Free what :meth:`build` made."""
        del self.players, self.objective, self.ema
        self.accelerator.free_memory()
        clear_device_cache(garbage_collection=True)  # of what only Accelerate still held

    def rehearse(self, level: int) -> None:
        """One step at full size on blank pictures, forgotten at once: too little memory is said now, not later."""
        self.build(level)
        model = self.config.at_level(level).model
        shape = (self.part, model.channels, model.height, model.width)
        for _ in range(self.config.accumulate):
            self.learn(torch.zeros(shape, device=self.accelerator.device))
        self._discard()

    def grow(self, level: int) -> None:
        """Make them anew for larger pictures: layers that fit go on, new ones enlarge, all else begins from nothing.

        That is both optimizers and most of what the objective remembers.
        """
        before, _ = self.parts()
        lasting, anchors = self.objective.lasting(), self.objective.anchors_of_seeds()
        # What new layers begin with must not depend on when the average was last drawn from.
        settled = copy.deepcopy(self.ema).settle(before["generator"], batch_size=self.part, anchors=anchors).train()
        raw = before["generator"] if anchors is None else before["generator"].anchored(anchors).train()
        self._discard()
        self.build(level)
        self.objective.remember(lasting)
        now, _ = self.parts()
        fill_from(now["discriminator"], before["discriminator"])
        double_to(now["generator"], raw, self.part)
        now["ema"].load_state_dict(now["generator"].state_dict())
        double_to(now["ema"], before["ema"], self.part, settled)
        for network in now.values():  # each process has measured by itself how new layers begin
            broadcast(network.state_dict())

    def learn(self, real: Tensor) -> dict[str, Tensor]:
        """One part of a batch through both networks; they take their steps with its last part.

        Args:
            real: this process's part, [b, C, H, W] in [-1, 1], as large as they will be in the end.

        Returns:
            Figures for the log, each a number on the device.
        """
        small = shrink(real, min(real.shape[2:]) // self.level)
        with self.accelerator.accumulate(self.players.generator, self.players.discriminator):
            return self.objective.play(self.players, small, real)

    def average(self, seen: int) -> None:
        """Have the average follow the step that was just made, `seen` pictures into the run."""
        generator = self.accelerator.unwrap_model(self.players.generator)
        self.ema.update(generator, self.config.batch_size, seen)

    def settled(self) -> Generator:
        """The averaged generator, ready for eval mode."""
        generator, anchors = self.accelerator.unwrap_model(self.players.generator), self.objective.anchors_of_seeds()
        return self.ema.settle(generator, batch_size=self.part, anchors=anchors)

    def are_finite(self) -> bool:
        """Whether all weights are numbers: those of the very last step may not be though its loss still was."""
        networks, _ = self.parts()
        whole = [weight.isfinite().all() for network in networks.values() for weight in network.parameters()]
        return bool(torch.stack(whole).all())

    def parts(self) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        """The networks and the optimizers that a checkpoint holds, by name."""
        unwrap = self.accelerator.unwrap_model
        networks = {
            "generator": unwrap(self.players.generator),
            "discriminator": unwrap(self.players.discriminator),
            "ema": self.ema.model,
        }
        return networks, {"generator": self.players.g_optimizer, "discriminator": self.players.d_optimizer}

    def save(self, folder: Path, state: RunState, keep: int, best: int | None) -> None:
        """Write a checkpoint of all of it, as :func:`fastgan.checkpoints.save_checkpoint` does."""
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        save_checkpoint(folder, state, *self.parts(), self.objective.memory(), scaler, keep, best)

    def load(self, checkpoint: Path) -> RunState:
        """Take all of it from a checkpoint.

        Returns:
            Where its run stood.

        Raises:
            UserError: the checkpoint is damaged, or of networks that differ from these.
        """
        state, memory, scaler = load_checkpoint(checkpoint, *self.parts())
        self.objective.remember({name: tensor.to(self.accelerator.device) for name, tensor in memory.items()})
        if scaler and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(scaler)
        return state
