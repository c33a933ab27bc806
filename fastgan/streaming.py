"""Batches of a dataset that does not fit on this disk, read and decoded while training."""

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.data import to_batch
from fastgan.errors import UserError
from fastgan.preparing import Preparation, cores, decode_all
from fastgan.sources import Source, Unreachable, find_source, plain_errors

SHUFFLE_BUFFER = 1024  # pictures a process holds, still encoded, to mix a stream
STREAM_THREADS = 4  # of each worker process of a stream: they wait for the network more than they decode


class StreamedBatches:
    """Endless batches, float32 [B / world_size, C, H, W] in [-1, 1], read while training; made by stream_batches."""

    def __init__(self, found: Source, loader: Any, rng: np.random.Generator, flip: bool, as_bytes: bool):
        self.source: dict[str, Any] = found.facts  # facts for the card, without the number of pictures
        self.skipped: list[tuple[str, str]] = []  # grows while the first pass goes on
        self._batches = _streamed(loader, rng, flip, as_bytes, self.skipped, found.facts["dataset"])

    def __iter__(self) -> "StreamedBatches":
        return self

    def __next__(self) -> Tensor:
        return next(self._batches)


# Not a method: a generator that refers to its owner is freed late, and late the loader's workers take long to stop.
def _streamed(
    loader: Any, rng: np.random.Generator, flip: bool, as_bytes: bool, skipped: list, dataset: str
) -> Iterator[Tensor]:
    for pictures, missing, error in loader:
        skipped.extend((name, why) for name, why in missing)  # the loader made lists of them
        if error:
            raise UserError(error)
        if len(pictures):
            mirrored = torch.from_numpy(rng.random(len(pictures)) < 0.5) if flip else None
            yield to_batch(pictures, mirrored, as_bytes)
    reason = f"; one is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    raise UserError(f"--dataset {dataset}: none of its pictures can be used{reason}")


class _WorkerBatches(torch.utils.data.IterableDataset):
    """What a worker makes: uint8 [B, C, H, W], what was skipped since the last batch, and a fatal error or ""."""

    def __init__(self, found: Source, how: Preparation, share: int, buffer: int, seed: list[int], place: list[int]):
        self.found, self.how, self.share = found, how, share
        self.stream, self.buffer, self.seed, self.place = found.stream(), buffer, seed, place

    def rows(self, number: int) -> Any:
        """This process's part of a pass, in an order of its own.

        The dataset's own count of passes is shared between workers: one that is ahead would give the others another
        division of the pictures than its own, and some would be missed.
        """
        from datasets.distributed import split_dataset_by_node

        # Every process must shuffle the parts alike, or they would not divide them without overlap.
        order = int(np.random.default_rng([*self.seed, number]).integers(2**31))
        return split_dataset_by_node(self.stream.shuffle(seed=order, buffer_size=self.buffer), *self.place)

    def __iter__(self) -> Iterator[tuple[Tensor, list[tuple[str, str]], str]]:
        try:
            with plain_errors(self.found.facts["dataset"], begun=True):
                yield from self._passes()
        except UserError as error:  # raised here, its one line would reach the person inside a worker's traceback
            yield torch.empty(0), [], str(error)

    def _passes(self) -> Iterator[tuple[Tensor, list[tuple[str, str]], str]]:
        pictures, skipped = [], []
        for number in itertools.count():
            seen = False
            for row, picture in decode_all(self.found.read, self.rows(number), self.how, STREAM_THREADS):
                if isinstance(picture, str):
                    if number == 0:  # later passes meet the same again
                        skipped.append((self.found.label(row) or "a row", picture))
                    continue
                seen = True
                pictures.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
                if len(pictures) == self.share:
                    yield torch.stack(pictures), skipped, ""
                    pictures, skipped = [], []
            if not seen:  # other workers may have better luck
                yield torch.empty(0), skipped, ""
                return


def _leave_signals(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, and launchers pass on SIGTERM to whole groups of processes.

    Training decides when to stop, and ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def stream_batches(
    source: str,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    channels: int = 3,
    config_name: str | None = None,
    split: str = "train",
    image_column: str | None = None,
    revision: str | None = None,
    fit: str = "crop",
    background: str = "white",
    start_images: int = 0,
    rank: int = 0,
    world_size: int = 1,
    flip: bool = True,
    as_bytes: bool = False,
    workers: int = 2,
) -> StreamedBatches:
    """Endless batches of a dataset that does not fit on this disk, decoded by worker processes while training.

    Pictures are mixed within a buffer of SHUFFLE_BUFFER per process, unlike :func:`fastgan.data.batches`; and a
    resumed run goes on with a newly shuffled pass, as finding the old place would mean to read everything before it.

    Args:
        batch_size, seed, start_images, rank, world_size, flip, as_bytes: see :func:`fastgan.data.batches`.
        workers: decoding processes for each training process; 0 decodes in the training process itself.
        source and the others: see :func:`fastgan.data.load_pictures`.

    Raises:
        UserError: as :func:`fastgan.data.load_pictures`; while iterating, when no picture at all can be read.
    """
    share = batch_size // world_size
    if share * world_size != batch_size:
        raise UserError(f"--batch-size {batch_size}: can't be shared equally by {world_size} processes")
    how = Preparation(tuple(size), channels, fit, background)
    found = find_source(source, split, config_name, image_column, revision)
    try:
        found.state()  # pins the revision
    except Unreachable as error:
        raise UserError(f"--dataset {source}: the Hub can't be reached ({error}); --streaming needs it") from None
    buffer = max(1, SHUFFLE_BUFFER // max(1, workers))
    made = _WorkerBatches(found, how, share, buffer, [seed, start_images], [rank, world_size])
    loader = torch.utils.data.DataLoader(
        made,
        batch_size=None,
        # A part is never split, so more would have nothing; and PyTorch warns of more than there are cores.
        num_workers=min(workers, made.rows(0).num_shards, cores()),
        generator=torch.Generator(),  # otherwise the loader draws from the random state of training
        worker_init_fn=_leave_signals,
    )
    return StreamedBatches(found, loader, np.random.default_rng([seed, start_images, rank]), flip, as_bytes)
