import errno
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from fastgan.data import batches, load_pictures
from fastgan.errors import UserError
from fastgan.pixels import to_float
from tests.commands import run_python, without_hub
from tests.pictures import RED

# ----------------------------------------------------------------------------------------------------------- the cache


def spoil(path):
    """Change a file's content but neither its size nor its time."""
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_second_start_decodes_nothing(folder, load):
    first = load(folder)
    for path in folder.rglob("*.*"):
        spoil(path)
    second = load(folder)
    assert torch.equal(first.images, second.images)
    assert (first.fingerprint, first.source, first.skipped) == (second.fingerprint, second.source, second.skipped)
    with pytest.raises(UserError, match="none of 6 pictures"):
        load(folder, size=(64, 64))  # other settings do decode


def test_a_changed_folder_is_prepared_again_and_the_old_entry_removed(folder, load, tmp_path):
    first = load(folder)
    Image.new("RGB", (40, 40), RED).save(folder / "z.png")
    second = load(folder)
    assert len(second.images) == 7 and second.fingerprint != first.fingerprint
    assert len(list((tmp_path / "cache").glob("*-*"))) == 1


def test_a_damaged_cache_is_made_anew(folder, load, tmp_path):
    first = load(folder)
    (array,) = (tmp_path / "cache").glob("*/pictures.npy")
    for damage in (array.read_bytes()[:-1], b""):
        array.write_bytes(damage)
        assert torch.equal(load(folder).images, first.images)


def test_the_cache_keeps_no_local_path(folder, load, tmp_path):
    load(folder)
    (about,) = (tmp_path / "cache").glob("*/pictures.json")
    assert str(tmp_path) not in about.read_text() and json.loads(about.read_text())["source"]["pictures"] == 6


def test_large_sets_are_mapped_and_stay_as_they_are_on_disk(folder, load, monkeypatch):
    first = load(folder)
    monkeypatch.setattr("fastgan.data.MEMORY_BYTES", 1000)
    mapped = load(folder)
    assert torch.equal(mapped.images, first.images)
    mapped.images.zero_()
    assert torch.equal(load(folder).images, first.images)


def test_processes_that_start_together_agree(folder, tmp_path):
    code = "import sys, fastgan.data as data\nfrom pathlib import Path\n"
    code += "prepared = data.load_pictures(sys.argv[1], size=(32, 32), cache_dir=Path(sys.argv[2]), progress=False)\n"
    code += "print(prepared.fingerprint)"
    with ThreadPoolExecutor(3) as pool:
        arguments = code, without_hub(), tmp_path, str(folder), str(tmp_path / "cache")
        jobs = [pool.submit(run_python, *arguments) for _ in range(3)]
        prints = {job.result().strip() for job in jobs}
    again = load_pictures(str(folder), size=(32, 32), cache_dir=tmp_path / "cache", progress=False)
    assert prints == {again.fingerprint}
    assert len(list((tmp_path / "cache").glob("*-*"))) == 1


def test_too_little_room_is_said_before_any_work_and_leaves_nothing(folder, load, tmp_path):
    resource = pytest.importorskip("resource", reason="limits of this kind are Unix's")
    with pytest.raises(UserError, match="need .* GB"):
        load(folder, size=(2**22, 2**22))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(UserError, match=f"can't write there .{os.strerror(errno.EFBIG)}"):
            load(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_a_cache_folder_that_can_not_be_written_is_said(folder, load):
    with pytest.raises(UserError, match="--cache-dir .*: can't write there"):
        load(folder, cache_dir=folder / "a.png")


# ------------------------------------------------------------------------------------------------------------- batches


def numbered(count):
    """Pictures that can be told apart, also mirrored: [N, 1, 2, 2], left column the number, right column 255."""
    images = torch.full((count, 1, 2, 2), 255, dtype=torch.uint8)
    images[..., 0] = torch.arange(count).reshape(-1, 1, 1)
    return images


def shown(batch):
    """Which pictures a batch of numbered ones holds."""
    return ((batch + 1) * 127.5).round().int().amin(dim=(1, 2, 3)).tolist()


def take(count, images, **settings):
    return torch.cat(list(itertools.islice(batches(images, **settings), count)))


def test_batches_are_float_from_minus_one_to_one():
    batch = next(batches(torch.tensor([0, 255]).byte().reshape(2, 1, 1, 1), batch_size=2, seed=0))
    assert batch.dtype == torch.float32 and sorted(batch.flatten().tolist()) == [-1, 1]


def test_every_picture_comes_once_in_every_pass_in_another_order():
    names = shown(take(14, numbered(7), batch_size=3, seed=1))
    passes = [names[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 4
    assert shown(take(14, numbered(7), batch_size=3, seed=2)) != names


def test_a_batch_larger_than_the_set_goes_round():
    names = shown(take(1, numbered(3), batch_size=8, seed=0))
    assert sorted(names[:3]) == sorted(names[3:6]) == [0, 1, 2] and len(names) == 8


def test_seeking_equals_walking():
    images = numbered(7)
    walked = take(40, images, batch_size=4, seed=3)
    for start in (0, 4, 28, 100):
        assert torch.equal(take(5, images, batch_size=4, seed=3, start_images=start), walked[start : start + 20])
    far = next(batches(images, batch_size=4, seed=3, start_images=10**15))
    assert far.shape == (4, 1, 2, 2)


def test_two_processes_together_see_what_one_would():
    images = numbered(11)
    alone = take(9, images, batch_size=6, seed=5, start_images=12)
    settings = {"batch_size": 6, "seed": 5, "start_images": 12, "world_size": 2}
    first, second = (take(9, images, rank=rank, **settings).split(3) for rank in (0, 1))
    together = torch.cat([part for pair in zip(first, second, strict=True) for part in pair])
    assert torch.equal(alone, together)
    with pytest.raises(UserError, match="shared equally by 4"):
        next(batches(images, batch_size=6, seed=0, world_size=4))


def test_half_of_the_pictures_are_mirrored_and_only_if_wanted():
    images = numbered(50)
    plain = take(20, images, batch_size=10, seed=0, flip=False)
    flipped = take(20, images, batch_size=10, seed=0)
    assert (plain[:, 0, 0, 1] == 1).all()
    mirrored = flipped[:, 0, 0, 1] != 1
    assert 70 < mirrored.sum() < 130
    assert torch.equal(torch.where(mirrored[:, None, None, None], flipped.flip(-1), flipped), plain)
    assert torch.equal(images, numbered(50))


def test_bytes_are_the_same_pictures_in_a_quarter_of_the_room():
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    settings = {"batch_size": 4, "seed": 3}
    pairs = zip(batches(images, **settings, as_bytes=True), batches(images, **settings), strict=True)
    for raw, batch in itertools.islice(pairs, 4):
        assert raw.dtype == torch.uint8
        assert torch.equal(to_float(raw), batch)
