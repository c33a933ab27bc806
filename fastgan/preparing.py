"""Pictures as training sees them: decoded, upright, in sRGB, fitted, uint8."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub.errors import HTTPError
from PIL import Image, ImageCms, ImageColor, ImageOps, UnidentifiedImageError

from fastgan.errors import UserError

CONNECTION_ERRORS = (HTTPError, ConnectionError, TimeoutError)  # of a picture that has to be fetched
PREPARATION_VERSION = 1  # raise it whenever prepare() gives other pixels, so that no stale cache is used
MIN_SIDE = 16  # pixels; a picture with a shorter side teaches nothing
# Formats that Pillow reads by itself. EPS is left out: Pillow hands it to an external interpreter.
FORMATS = tuple("AVIF BMP DDS DIB GIF ICNS ICO JPEG JPEG2000 PCX PNG PPM PSD QOI SGI TGA TIFF WEBP XBM XPM".split())


def parse_color(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour such as "white" or "#ffeedd".

    Raises:
        UserError: no such colour.
    """
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UserError(f'--background: no colour "{text}"; try a name like white, or #ffeedd') from None


@dataclass(frozen=True)
class Preparation:
    """How pictures become those that training sees. Its fields, in this order, are part of a cache's name.

    Raises:
        UserError: no such colour, or no such fit.
    """

    size: tuple[int, int]  # height and width of the result, pixels
    # 1 for grey, 3 for RGB (both composed on the background), 4 for RGBA. RGBA is straight, as PNG stores it; pixels
    # fade to the background's colour as they vanish, so that what can't be seen is not noise.
    channels: int = 3
    # "crop" cuts the middle to the shape, "pad" shows the whole picture on the background (transparent with 4
    # channels), "stretch" ignores the shape.
    fit: str = "crop"
    background: str = "white"  # a colour name or #hex

    def __post_init__(self):
        parse_color(self.background)
        if self.fit not in ("crop", "pad", "stretch"):
            raise UserError(f'fit: expected "crop", "pad" or "stretch", got {self.fit!r}')


def prepare(image: Image.Image, how: Preparation) -> np.ndarray:
    """The picture as training sees it: uint8 [H, W, C].

    It is turned upright (EXIF), brought to 8-bit sRGB (an embedded colour profile is applied, 16-bit and float
    pictures are scaled, not clipped), fitted and resized with antialiasing. Animations give their first frame.

    Args:
        image: any picture that Pillow can open.
        how: shape, channels, fit and background of the result.

    Raises:
        OSError, ValueError, SyntaxError: as Pillow raises them for a damaged picture.
    """
    color = parse_color(how.background)
    image = _to_8_bit(_upright(image))
    if how.channels == 4:
        return _resize_rgba(image.convert("RGBA"), how.size, how.fit, color)
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, color)
        image = Image.alpha_composite(canvas, image)
    image = image.convert("L" if how.channels == 1 else "RGB")
    (height, width), (box, inner) = how.size, _placement(image.size, how.size, how.fit)
    small = image.resize((inner[2] - inner[0], inner[3] - inner[1]), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    if small.size != (width, height):
        canvas = Image.new("RGB", (width, height), color).convert(image.mode)
        canvas.paste(small, inner)
        small = canvas
    return np.asarray(small).reshape(height, width, how.channels)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, AttributeError):
        return image  # the EXIF block is damaged, the picture may well be fine


def _to_8_bit(image: Image.Image) -> Image.Image:
    """The picture in sRGB: mode "L", "RGB" or, where any pixel may be see-through, "RGBA"."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_scale_to_8_bit(np.asarray(image)))
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK":
        return _to_srgb(image, profile) or image.convert("RGB")
    if image.mode in ("1", "L") and not image.has_transparency_data:
        return image.convert("L")
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return _to_srgb(image, profile) or image


def _scale_to_8_bit(values: np.ndarray) -> np.ndarray:
    """uint8 values of a grey picture with deeper pixels, [H, W].

    16-bit values use their whole range. 32-bit and float pictures do not say which range they use: the smallest of the
    usual ones (0 to 1 for floats, 0 to 255, 0 to 65535) that holds them, or else from their own lowest to highest.
    """
    usual = {"u": (65535,), "i": (255, 65535), "f": (1, 255, 65535)}[values.dtype.kind]
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    low, high = next(((0, top) for top in usual if low >= 0 and high <= top), (low, high))
    return np.round((values - low) * (255 / (high - low or 1))).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The picture converted from its embedded colour profile; None where there is no use for one."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != image.mode[: len(space)] or ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        mode = "RGB" if image.mode == "CMYK" else image.mode
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return None  # a damaged profile; the pixels are all there is


def _placement(
    source: tuple[int, int], size: tuple[int, int], fit: str
) -> tuple[tuple[float, ...], tuple[int, int, int, int]]:
    """Which part of the source (width, height) is shown, and where in the result; boxes left, top, right, bottom."""
    (source_width, source_height), (height, width) = source, size
    whole, everywhere = (0, 0, source_width, source_height), (0, 0, width, height)
    if fit == "crop":
        scale = min(source_width / width, source_height / height)
        left, top = (source_width - width * scale) / 2, (source_height - height * scale) / 2
        return (max(left, 0), max(top, 0), source_width - max(left, 0), source_height - max(top, 0)), everywhere
    if fit == "pad":
        scale = max(source_width / width, source_height / height)
        inner_width, inner_height = (max(1, round(side / scale)) for side in source)
        left, top = (width - inner_width) // 2, (height - inner_height) // 2
        return whole, (left, top, left + inner_width, top + inner_height)
    return whole, everywhere  # "stretch"


def _resize_rgba(image: Image.Image, size: tuple[int, int], fit: str, color: tuple[int, int, int]) -> np.ndarray:
    """Straight RGBA, uint8 [H, W, 4], resized with premultiplied colour so that no hidden colour bleeds in."""
    box, (left, top, right, bottom) = _placement(image.size, size, fit)
    resized = np.zeros((*size, 4), np.float32)
    # Float, because at a low alpha 8-bit premultiplied colour can't be divided back into anything but speckles. One
    # plane at a time, because photographs are large.
    opacity = np.asarray(image.getchannel("A"), dtype=np.float32) / 255
    for c in range(4):
        plane = opacity if c == 3 else np.asarray(image.getchannel(c), dtype=np.float32) / 255 * opacity
        # Lanczos would ring: a second, faint outline in the alpha around every shape.
        small = Image.fromarray(plane).resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
        resized[top:bottom, left:right, c] = np.asarray(small)
    alpha = resized[..., 3:].clip(0, 1)
    rgb = resized[..., :3].clip(0, alpha)  # the filter overshoots at edges, premultiplied colour must not
    # The share of the background is 0 where the picture is opaque, 1 where it is gone, and small in between.
    share = (1 - alpha) / 64
    rgb = (rgb + share * np.array(color, np.float32) / 255) / (alpha + share)
    return np.round(np.concatenate([rgb, alpha], axis=-1) * 255).astype(np.uint8)


class Refused(Exception):
    """A picture that is not read; the message is the reason."""


def decode_all(
    read: Callable[[dict], bytes | Path], rows: Iterable[dict], how: Preparation, threads: int
) -> Iterator[tuple[dict, np.ndarray | str]]:
    """Each row with its prepared picture or what is wrong with it, in order."""
    waiting: deque = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row in rows:
            waiting.append((row, pool.submit(_decode, read, row, how)))
            if len(waiting) > 4 * threads:  # bounds what is held in memory
                row, picture = waiting.popleft()
                yield row, picture.result()
        for row, picture in waiting:
            yield row, picture.result()


def _decode(read: Callable[[dict], bytes | Path], row: dict, how: Preparation) -> np.ndarray | str:
    """One prepared picture, uint8 [H, W, C], or the reason why there is none."""
    try:
        content = read(row)
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as image:
            if min(image.size) < MIN_SIDE:
                return f"only {image.width}x{image.height} pixels; both sides need {MIN_SIDE}"
            return prepare(image, how)
    except Refused as refusal:
        return str(refusal)
    except FileNotFoundError:  # a table may hold names of files that stayed elsewhere
        return "its file is not here"
    except UnidentifiedImageError:
        return "not a picture, or damaged at its start"
    except Image.DecompressionBombError:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS // 10**6} million pixels"
    except CONNECTION_ERRORS:  # says nothing of the picture
        raise
    except Exception as error:  # Pillow's decoders fail on damaged files with almost any exception
        return f"damaged: {getattr(error, 'strerror', None) or error or type(error).__name__}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
