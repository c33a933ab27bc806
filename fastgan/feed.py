"""The real pictures of a run, from its dataset to the device they are judged on."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor

from fastgan import data
from fastgan.config import TrainConfig
from fastgan.errors import UserError
from fastgan.pixels import to_float
from fastgan.processes import Processes
from fastgan.sources import Unreachable, find_source
from fastgan.streaming import StreamedBatches, stream_batches


class Feed:
    """The pictures that a run learns from: all of them in memory, or a stream of them.

    Args:
        config: every setting.
        processes: which share them.

    Attributes:
        pictures: once :meth:`load` has read them; None where they are a stream.
        stream: once :meth:`open` has begun it; None where there is none.
    """

    def __init__(self, config: TrainConfig, processes: Processes):
        self.config, self.processes = config, processes
        self.pictures: data.Pictures | None = None
        self.stream: StreamedBatches | None = None

    def find(self) -> None:
        """Raise a UserError where there is no such dataset, before anything is made for it."""
        config = self.config
        where = config.split, config.dataset_config, config.image_column, config.revision
        with suppress(Unreachable):
            find_source(config.dataset, *where).state()

    def load(self) -> None:
        """Read all pictures, unless they are a stream.

        Raises:
            UserError: there are none that can be used, or fewer than a batch.
        """
        config = self.config
        if config.streaming:
            return
        try:
            pictures = data.load_pictures(
                config.dataset,
                **self._options(),
                cache_dir=config.cache_dir,
                progress=True,  # shown by the process that prepares them, while the others of this disk wait
            )
        except data.NoRoom as error:
            raise UserError(f"{error}, or use --streaming") from None
        count, parts = len(pictures.images), config.accumulate * self.processes.world
        if config.batch_size > count:
            most = count // parts * parts
            less = f"; add some, or try --batch-size {most}" if most >= 2 * parts else "; add some"
            raise UserError(
                f"--batch-size {config.batch_size}: more than the {count} pictures of {config.dataset}{less}"
            )
        self.pictures = pictures

    def open(self, images: int) -> None:
        """Begin the stream, where there is one.

        Args:
            images: how many pictures the run has seen before.

        Raises:
            UserError: it can't be read.
        """
        if self.config.streaming:
            self.stream = stream_batches(self.config.dataset, **self._options(), **self._order(images))

    def close(self) -> None:
        """Let go of a stream; its workers end when its batches are let go of too."""
        self.stream = None

    @property
    def count(self) -> int:
        """How many pictures there are; 0 of a stream, where nobody knows, and before they are loaded."""
        return len(self.pictures.images) if self.pictures else 0

    @property
    def fingerprint(self) -> str | None:
        """Of all pictures; None where they are a stream."""
        return self.pictures.fingerprint if self.pictures else None

    @property
    def source(self) -> dict[str, Any]:
        """Where they are from, for the card."""
        return (self.stream or self.pictures).source

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Which pictures were left out so far, and why."""
        return (self.stream or self.pictures).skipped

    def batches(self, images: int) -> Iterator[Tensor]:
        """The parts of batches that this process sees, without an end.

        Args:
            images: how many pictures the run has seen before; a stream begins where it was opened.

        Yields:
            [b, C, H, W] in [-1, 1], on its device.

        Raises:
            UserError: the stream can't be read on.
        """
        device = self.processes.accelerator.device
        on_gpu = device.type == "cuda"
        try:
            for batch in self.stream or data.batches(self.pictures.images, **self._order(images)):
                # Only from pinned memory does a copy run beside the computation.
                batch = (batch.pin_memory() if on_gpu else batch).to(device, non_blocking=on_gpu)
                yield batch if batch.is_floating_point() else to_float(batch)
        except UserError as error:  # of a stream; the other processes do not meet it, and this one may be silent
            accelerator = self.processes.accelerator
            if not accelerator.is_local_main_process:
                print(f"error in process {accelerator.process_index}: {error}", file=sys.stderr)
            raise

    def _options(self) -> dict[str, Any]:
        """Which pictures they are, and how they are prepared."""
        config = self.config
        return {
            "size": (config.model.height, config.model.width),
            "channels": config.channels,
            "config_name": config.dataset_config,
            "split": config.split,
            "image_column": config.image_column,
            "revision": config.revision,
            "fit": config.fit,
            "background": config.background,
        }

    def _order(self, images: int) -> dict[str, Any]:
        """Which pictures come in which order from here on, and which of them to this process."""
        config, accelerator = self.config, self.processes.accelerator
        return {
            "batch_size": config.batch_size // config.accumulate,
            "seed": config.seed,
            "start_images": images,
            "rank": accelerator.process_index,
            "world_size": self.processes.world,
            "flip": config.flip,
            "as_bytes": accelerator.device.type != "cpu",
        }
