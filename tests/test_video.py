from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fastgan import UserError
from fastgan.video import frame_rate, write_gif, write_mp4, write_video, write_webp


def moving(frames: int = 12, side: int = 64, channels: int = 3) -> torch.Tensor:
    """A soft disc that wanders from left to right before a coloured slope: uint8 [frames, C, side, side]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pictures = []
    for frame in range(frames):
        disc = torch.sigmoid((side / 5 - ((x - side * frame / frames) ** 2 + (y - side / 2) ** 2).sqrt()) / 3)
        planes = [255 * disc, 200 * y / side, 255 * (1 - disc), 255 * disc][: channels if channels != 1 else 1]
        pictures.append(torch.stack(planes).round().to(torch.uint8))
    return torch.stack(pictures)


def decoded(path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def test_an_mp4_decodes_to_the_frames_that_were_written(tmp_path):
    frames = moving()
    write_mp4(iter(frames.split(5)), tmp_path / "new" / "walk.mp4", fps=24)
    back = decoded(tmp_path / "new" / "walk.mp4")
    assert back.shape == (12, 64, 64, 3)
    assert np.abs(back.astype(float) - frames.permute(0, 2, 3, 1).numpy()).mean() < 4
    with av.open(str(tmp_path / "new" / "walk.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == 24 and file.duration == pytest.approx(12 / 24 * 1e6, rel=0.01)
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    head = (tmp_path / "new" / "walk.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # plays while it loads


def test_colours_of_an_mp4_are_those_of_the_frames(tmp_path):
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [250, 200, 150]], dtype=torch.uint8)
    write_mp4([colour[:, None, None].expand(3, 32, 32) for colour in colours], tmp_path / "flat.mp4", fps=10)
    assert np.abs(decoded(tmp_path / "flat.mp4")[:, 16, 16].astype(int) - colours.numpy()).max() <= 6


@pytest.mark.parametrize(("channels", "side"), [(1, 32), (4, 33)])
def test_an_mp4_of_grey_transparent_or_odd_sized_frames_plays(tmp_path, channels, side):
    frames = moving(4, side, channels)
    write_mp4(frames, tmp_path / "walk.mp4")
    back = decoded(tmp_path / "walk.mp4")
    assert back.shape == (4, side + side % 2, side + side % 2, 3)
    if channels == 4:  # white where nothing is
        assert back[0, 0, -2].min() > 240


@pytest.mark.parametrize("name", ["walk.gif", "walk.webp"])
def test_animations_hold_every_frame_and_keep_the_rate(tmp_path, name):
    frames = moving()
    write_video(frames, tmp_path / name, fps=30)
    with Image.open(tmp_path / name) as file:
        assert file.n_frames == 12 and file.info["loop"] == 0
        total, errors = 0, []
        for i in range(12):
            file.seek(i)
            errors.append(np.abs(np.asarray(file.convert("RGB"), float) - frames[i].permute(1, 2, 0).numpy()).mean())
            total += file.info["duration"]
    assert max(errors) < 8
    assert total == 400


def test_a_webp_keeps_transparency(tmp_path):
    write_webp(moving(3, 32, 4), tmp_path / "walk.webp")
    with Image.open(tmp_path / "walk.webp") as file:
        assert file.mode == "RGBA"
        assert file.getpixel((31, 0))[3] < 5


def test_a_walk_that_is_broken_off_leaves_the_older_file(tmp_path):
    def broken():
        yield moving(1)[0]
        raise KeyboardInterrupt

    for write, name in ((write_mp4, "a.mp4"), (write_gif, "a.gif"), (write_webp, "a.webp")):
        (tmp_path / name).write_text("older")
        with pytest.raises(KeyboardInterrupt):
            write(broken(), tmp_path / name)
        assert (tmp_path / name).read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("frames", "name", "fps", "says"),
    [
        ([], "a.mp4", 30, "no frames"),
        ([], "a.gif", 30, "no frames"),
        (moving(2), "a.mp4", 0, "1 to 120"),
        (moving(2), "a.webp", 500, "1 to 120"),
        (moving(2), "a.avi", 30, ".mp4, .gif, .webp"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_line(tmp_path, frames, name, fps, says):
    with pytest.raises(UserError, match=says):
        write_video(frames, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["walk.gif", "walk.webp", "walk.mp4"])
def test_a_rate_that_cannot_be_is_said_before_a_frame_is_drawn(tmp_path, name):
    def frames():
        pytest.fail("was drawn")
        yield

    with pytest.raises(UserError, match="frames per second"):
        write_video(frames(), tmp_path / name, fps=500)


def test_a_gif_is_told_at_the_rate_that_it_has():
    assert frame_rate(Path("walk.gif"), 120) == 50
    assert frame_rate(Path("walk.gif"), 24) == 24
    assert frame_rate(Path("walk.mp4"), 120) == 120
