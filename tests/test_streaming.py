import itertools
import multiprocessing
import os
import pickle
import signal
import zipfile
from pathlib import Path

import datasets
import pytest
import torch

from fastgan.errors import UserError
from fastgan.preparing import Preparation
from fastgan.sources import find_source
from fastgan.streaming import _WorkerBatches, stream_batches

pytestmark = pytest.mark.usefixtures("datasets_cache")


def greys(stream, count):
    """The grey level of each picture in the first batches."""
    return torch.cat([((batch[:, 0, 0, 0] + 1) * 127.5).round().int() for batch in itertools.islice(stream, count)])


def test_a_stream_gives_every_picture_and_skips_broken_ones(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"?")
    archive, table = tmp_path / "pictures.zip", tmp_path / "pictures.parquet"
    files = [path for path in sorted(folder.rglob("*.*"))]
    with zipfile.ZipFile(archive, "w") as file:
        for path in files:
            file.write(path, path.name)
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in files]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(table))
    datasets.Dataset.from_dict({"image": cells}, features=features).save_to_disk(tmp_path / "saved")
    for source, workers in ((folder, 2), (folder, 0), (archive, 2), (table, 2), (tmp_path / "saved", 0)):
        stream = stream_batches(str(source), size=(16, 32), batch_size=2, seed=0, workers=workers)
        assert next(stream).shape == (2, 3, 16, 32)
        assert {round(grey / 20) for grey in greys(stream, 20).tolist()} == {0, 1, 2, 3, 4, 5}
        assert stream.skipped == [("broken.png", "not a picture, or damaged at its start")]
        assert stream.source["dataset"] == Path(source).name


def test_ctrl_c_does_not_end_the_workers_of_a_stream(folder):
    """A terminal sends it to every process; training decides when to stop."""
    others = multiprocessing.active_children()
    stream = stream_batches(str(folder), size=(16, 32), batch_size=2, seed=0, workers=2)
    for _ in range(2):  # one from each, so both have begun
        next(stream)
    workers = [worker for worker in multiprocessing.active_children() if worker not in others]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(20):
        assert next(stream).shape == (2, 3, 16, 32)
    assert all(worker.is_alive() for worker in workers)


def test_a_worker_that_is_ahead_leaves_the_others_their_pass(folder):
    found = find_source(str(folder), "train", None, None, None)
    one = _WorkerBatches(found, Preparation((16, 16)), share=2, buffer=4, seed=[0, 0], place=[0, 1])
    names = [[row["name"] for row in one.rows(number)] for number in range(4)]
    assert len(set(map(tuple, names))) > 1 and len(set(map(frozenset, names))) == 1
    ahead = pickle.loads(pickle.dumps(one))  # as it comes to another process
    assert [row["name"] for row in ahead.rows(3)] == names[3]
    assert [row["name"] for row in one.rows(0)] == names[0]


def test_two_streaming_processes_share_the_pictures(folder):
    settings = {"size": (16, 16), "batch_size": 6, "seed": 0, "world_size": 2, "workers": 0}
    first, second = (set(greys(stream_batches(str(folder), rank=rank, **settings), 1).tolist()) for rank in (0, 1))
    assert len(first) == len(second) == 3 and not first & second


def test_a_stream_without_a_readable_picture_ends_with_the_reason(folder):
    for path in folder.rglob("*.*"):
        path.write_bytes(b"?")
    stream = stream_batches(str(folder), size=(16, 16), batch_size=2, seed=0)
    with pytest.raises(UserError, match="none of its pictures can be used; one is .*: not a picture"):
        next(stream)
