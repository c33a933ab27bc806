"""Frames to files: MP4 that every browser plays, GIF, animated WebP. Each is written whole or not at all."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fastgan.errors import UserError
from fastgan.files import write_file
from fastgan.sampling import to_pil

GIF_FASTEST = 50  # frames per second: browsers show frames that ask for less than 20 ms at a tenth of a second each
PALETTE_FRAMES = 16  # as many frames, evenly spread, decide on the one palette of a GIF


def write_video(frames: Iterable[Tensor], path: Path, fps: float = 30) -> None:
    """Write frames in the format that the name ends in: .mp4, .gif or .webp; see the three functions below.

    Raises:
        UserError: another ending, or as the functions say.
    """
    writer = WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise UserError(f"{path}: expected a name that ends in {', '.join(WRITERS)}")
    writer(frames, path, fps)


def write_mp4(frames: Iterable[Tensor], path: Path, fps: float = 30) -> None:
    """Write H.264 in MP4, 4:2:0, ready to play while it loads. Transparency is laid on white.

    Args:
        frames: all of one size, uint8 [C, H, W], or [n, C, H, W] for several at a time; taken one by one as the file
            grows. A side that is odd gets one more row or column, a copy of its last.
        path: of the file; its folder is made. If `frames` raises, there is no file and an older one stays.
        fps: frames per second, 1 to 120.

    Raises:
        UserError: there is no frame, fps is out of range, PyAV is not installed, or the file can't be written.
    """
    try:
        import av
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
    except ImportError:
        raise UserError("MP4: needs the package av: pip install av, or choose a .webp or .gif") from None
    rate = Fraction(_checked(fps)).limit_denominator(1001)

    def write(temporary: Path) -> None:
        pictures = _pictures(frames)
        with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as file:
            stream = None
            for picture in pictures:
                array = np.asarray(_opaque(picture))
                height, width = array.shape[:2]
                array = np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                if stream is None:
                    stream = file.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "fast"})
                    stream.height, stream.width = array.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    context = stream.codec_context
                    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
                    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame = frame.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                file.mux(stream.encode(frame))
            file.mux(stream.encode())

    write_file(Path(path), write)


def frame_rate(path: Path, fps: float) -> float:
    """How many frames per second a file of that kind shows when it is asked for `fps`: a GIF no more than 50."""
    return min(fps, GIF_FASTEST) if path.suffix.lower() == ".gif" else fps


def write_gif(frames: Iterable[Tensor], path: Path, fps: float = 30) -> None:
    """Write a GIF that loops for ever, in 256 colours common to all frames. Transparency is laid on white.

    Args:
        frames, path: as in :func:`write_mp4`; all frames are held in memory while the palette is chosen.
        fps: frames per second, 1 to 120; above 50 as :func:`frame_rate`. Frames last whole hundredths of a second, so
            they alternate to keep the rate.

    Raises:
        UserError: there is no frame, fps is out of range, or the file can't be written.
    """
    rate = min(_checked(fps), GIF_FASTEST)
    pictures = [_opaque(picture) for picture in _pictures(frames)]
    durations = _durations(len(pictures), rate, step=10)
    seen = [np.asarray(picture) for picture in pictures[:: -(-len(pictures) // PALETTE_FRAMES)]]
    palette = Image.fromarray(np.concatenate(seen)).quantize(256)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]

    def write(temporary: Path) -> None:
        indexed[0].save(temporary, save_all=True, append_images=indexed[1:], duration=durations, loop=0)

    write_file(Path(path), write)


def write_webp(frames: Iterable[Tensor], path: Path, fps: float = 30) -> None:
    """Write an animated WebP that loops for ever, transparency kept.

    Args:
        frames, path: as in :func:`write_mp4`; all frames are held in memory.
        fps: frames per second, 1 to 120.

    Raises:
        UserError: there is no frame, fps is out of range, or the file can't be written.
    """
    rate = _checked(fps)
    pictures = list(_pictures(frames))
    durations = _durations(len(pictures), rate)

    def write(temporary: Path) -> None:
        pictures[0].save(
            temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=85, method=4
        )

    write_file(Path(path), write)


WRITERS: dict[str, Callable[[Iterable[Tensor], Path, float], None]] = {
    ".mp4": write_mp4,
    ".gif": write_gif,
    ".webp": write_webp,
}


def _checked(fps: float) -> float:
    if not 1 <= fps <= 120:
        raise UserError(f"frame rate: expected 1 to 120 frames per second, got {fps:g}")
    return fps


def _pictures(frames: Iterable[Tensor]) -> Iterator[Image.Image]:
    """One by one; at least one."""
    count = 0
    for part in frames:
        for picture in part if part.ndim == 4 else part[None]:
            count += 1
            yield to_pil(picture)
    if not count:
        raise UserError("video: there are no frames to write")


def _opaque(picture: Image.Image) -> Image.Image:
    """As RGB, laid on white."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _durations(count: int, fps: float, step: int = 1) -> list[int]:
    """How long each frame lasts, in whole steps of milliseconds that add up to the rate."""
    ends = [round(1000 * (i + 1) / fps / step) * step for i in range(count)]
    return [end - start for start, end in itertools.pairwise([0, *ends])]
