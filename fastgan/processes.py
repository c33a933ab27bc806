"""The processes of a run: how Accelerate starts them, and what they find out and decide together."""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    DynamoBackend,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    parse_flag_from_env,
)
from tqdm.auto import tqdm

from fastgan import fast
from fastgan.config import TrainConfig
from fastgan.errors import UserError

PATIENCE = timedelta(hours=2)  # of processes that wait for one which prepares pictures or measures


class Processes:
    """All processes of a run, from one on a laptop to many on several machines, as one of them sees them.

    Args:
        config: every setting.
        folder: of the run, for trackers.

    Attributes:
        accelerator: of this process.
        main: whether this process is the one that writes.
        world: how many there are.
        agreed: whether all end at the same place, rather than this one by itself.

    Raises:
        UserError: this device does not compute in the precision that was asked for.
    """

    def __init__(self, config: TrainConfig, folder: Path):
        self.shares_state = is_initialized()  # with a caller who uses Accelerate for something else, as in a notebook
        self.accelerator = self._start(config, folder)
        self.main = self.accelerator.is_main_process
        self.world = self.accelerator.num_processes
        self.agreed = False

    def _start(self, config: TrainConfig, folder: Path) -> Accelerator:
        try:
            accelerator = Accelerator(
                mixed_precision=self._precision(config),
                gradient_accumulation_steps=config.accumulate,
                log_with=None if config.report_to == "none" else config.report_to,
                project_config=ProjectConfiguration(project_dir=str(folder)),
                # Each process keeps the buffers of its own pictures: broadcasting them at every forward pass would
                # change in place what the backward pass of an earlier one still needs.
                kwargs_handlers=[
                    DistributedDataParallelKwargs(broadcast_buffers=False),
                    InitProcessGroupKwargs(timeout=PATIENCE),
                ],
            )
            if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
                raise ValueError("a CPU does not compute in it; bf16 or no will do")
            # Accelerate lets older GPUs have it, which have it emulated and without convolutions.
            on_gpu = accelerator.mixed_precision == "bf16" and accelerator.device.type == "cuda"
            if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
                raise ValueError("this GPU does not compute in it; fp16 or no will do")
        except ValueError as error:  # a precision that this device doesn't have
            asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "fp16")
            self._forget_accelerate()
            precision = asked if config.mixed_precision == "auto" else config.mixed_precision
            raise UserError(f"--mixed-precision {precision}: {error}") from None
        return accelerator

    def _precision(self, config: TrainConfig) -> str | None:
        """What Accelerate is asked for; None is whatever it has been set up with."""
        if config.mixed_precision != "auto":
            return config.mixed_precision
        if self.shares_state or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
            return None
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
        state = PartialState(cpu=cpu, timeout=PATIENCE)  # as Accelerator is about to make it
        [precision] = broadcast_object_list([fast.best_precision(state.device)])  # noisy, so one process decides
        return precision

    def check(self, config: TrainConfig) -> None:
        """Raise a UserError where they were started in a way that can't be used, or a batch does not split."""
        kind = self.accelerator.distributed_type
        if kind != DistributedType.NO and not kind.value.startswith("MULTI_"):
            raise UserError(f"accelerate is set up for {kind.value}, which this can't use; choose plain multi-GPU")
        if self.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            raise UserError("accelerate is set up for torch dynamo, which this can't use; set it to no")
        started = int(os.environ.get("WORLD_SIZE", 1))
        if started != self.world and not self.shares_state:
            raise UserError(
                f"started as {started} processes, which accelerate takes for {self.world}; "
                "on CPUs torchrun needs ACCELERATE_USE_CPU=true before it"
            )
        parts = config.accumulate * self.world
        if config.batch_size % parts or config.batch_size // parts < 2:
            raise UserError(
                f"--batch-size {config.batch_size}: does not split into parts of at least 2 pictures for {self.world} "
                f"processes × --accumulate {config.accumulate}; try {parts * max(2, config.batch_size // parts)}"
            )

    def together(self, work: Callable[[], Any]) -> Any:
        """What a part of setting up gives; where it fails in one process, all of them end."""
        error = result = None
        try:
            result = work()
        except UserError as refusal:
            error = refusal
        failed = torch.tensor([error is not None], dtype=torch.int64, device=self.accelerator.device)
        if int(self.accelerator.gather(failed).max()):
            self.agreed = True
            raise error or UserError("another process could not start; see what it said")
        return result

    def alike(self, *values: int) -> bool:
        """Whether all processes give the same values."""
        mine = torch.tensor([values], device=self.accelerator.device)
        return bool((self.accelerator.gather(mine) == mine).all())

    def wait(self) -> None:
        """Wait for all, which from here on end at the same place."""
        self.accelerator.wait_for_everyone()
        self.agreed = True

    def largest(self, *values: int) -> Sequence[int]:
        """The largest of each value among all processes."""
        if self.world == 1:
            return values
        return self.accelerator.gather(torch.tensor([values], device=self.accelerator.device)).amax(0).tolist()

    def say(self, text: str) -> None:
        """Print a line above the progress bar, once for all."""
        if self.main:
            tqdm.write(text, file=sys.stderr)

    @property
    def hardware(self) -> str:
        """What they run on, in words."""
        device = self.accelerator.device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            threads = f"CPU, {torch.get_num_threads()} threads".replace(" 1 threads", " 1 thread")
            name = threads if device.type == "cpu" else device.type.upper()
        return f"{name}, {self.world} processes" if self.world > 1 else name

    def close(self) -> None:
        """End trackers and the process group, and let the next run of this process choose its own precision."""
        if self.agreed or self.world == 1:
            self.accelerator.end_training()
        else:  # NCCL would wait here for processes that wait for this one
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self._forget_accelerate()

    def _forget_accelerate(self) -> None:
        """Accelerate keeps device and precision for the life of the process; put that back as we found it."""
        if not self.shares_state:
            AcceleratorState._reset_state(reset_partial_state=True)
