import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from fastgan.errors import UserError
from fastgan.preparing import Preparation, decode_all, prepare
from tests.pictures import BLUE, GREEN, RED, close, encoded


def reopened(image, kind="PNG", **options):
    return Image.open(io.BytesIO(encoded(image, kind, **options)))


def prepared(picture, size, **how):
    return prepare(picture, Preparation(size, **how))


def halves(left, right, size=(64, 64), mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_a_picture_taken_sideways_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated a quarter: what is stored left is shown on top
    pixels = prepared(reopened(halves(RED, BLUE), "JPEG", exif=exif, quality=95), (32, 32))
    assert close(pixels[4, 16], RED, 8) and close(pixels[28, 16], BLUE, 8)


def test_damaged_exif_does_not_lose_the_picture():
    picture = reopened(Image.new("RGB", (64, 64), RED), "JPEG", exif=b"Exif\0\0garbage", quality=95)
    assert close(prepared(picture, (32, 32))[0, 0], RED, 8)


def test_palettes_give_their_colors_and_their_transparency():
    plain = halves(RED, BLUE).convert("P")
    assert close(prepared(reopened(plain), (32, 32))[16, [4, 28]], (RED, BLUE))
    clear = Image.new("P", (64, 64), 0)
    clear.putpalette([*RED, *BLUE])
    clear.paste(1, (32, 0, 64, 64))
    picture = reopened(clear, transparency=1)
    assert close(prepared(picture, (32, 32), background="lime")[16, [4, 28]], (RED, GREEN))
    assert prepared(picture, (32, 32), channels=4)[16, [4, 28], 3].tolist() == [255, 0]


def test_grey_with_alpha_is_composed_on_the_background():
    picture = reopened(halves((0, 255), (0, 0), mode="LA"))
    assert close(prepared(picture, (32, 32), background="#00ff00")[16, [4, 28]], ((0, 0, 0), GREEN))
    assert close(prepared(picture, (32, 32), channels=1)[16, [4, 28]], ([0], [255]))


def test_deep_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    expected = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    for image in (
        reopened(Image.fromarray(ramp.astype(np.uint16))),
        reopened(Image.fromarray(ramp.astype(np.int32)), "TIFF"),
        reopened(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        reopened(Image.fromarray((ramp * 100 - 1e6).astype(np.float32)), "TIFF"),
    ):
        assert image.mode[0] in "IF"
        assert np.abs(prepared(image, (64, 64), channels=1)[..., 0] - expected).max() <= 1


def test_print_colors_become_screen_colors():
    picture = reopened(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95)
    assert picture.mode == "CMYK"
    assert close(prepared(picture, (32, 32))[16, 16], RED, 8)


def test_an_embedded_color_profile_is_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A profile whose first channel means blue and whose last means red, under another name.
    profile = profile.replace(b"rXYZ", b"tmpX", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmpX", b"bXYZ", 1)
    swapped = profile.replace("sRGB".encode("utf-16-be"), "BGRs".encode("utf-16-be"))
    assert close(prepared(reopened(Image.new("RGB", (64, 64), RED), icc_profile=swapped), (32, 32))[0, 0], BLUE)
    damaged = reopened(Image.new("RGB", (64, 64), RED), icc_profile=b"damaged")
    assert close(prepared(damaged, (32, 32))[0, 0], RED)


def test_alpha_is_kept_with_four_channels_and_opaque_pictures_get_it():
    pixels = prepared(halves((*RED, 255), (*GREEN, 0), mode="RGBA"), (32, 32), channels=4)
    assert pixels[16, 4].tolist() == [*RED, 255]
    assert pixels[16, 28].tolist() == [255, 255, 255, 0]  # nothing to see: the background's colour
    assert prepared(Image.new("L", (64, 64), 7), (32, 32), channels=4)[0, 0].tolist() == [7, 7, 7, 255]


def test_hidden_color_does_not_bleed_into_an_edge():
    edge = halves((*RED, 255), (0, 0, 0, 0), (66, 66), "RGBA")  # the edge falls inside a pixel of the result
    pixels = prepared(edge, (8, 8), channels=4, background="red")
    assert ((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any()
    assert close(pixels[..., :3], np.broadcast_to(RED, (8, 8, 3)), 2)


def test_first_frame_of_an_animation_is_used():
    frames = [Image.new("RGB", (64, 64), color) for color in (RED, BLUE)]
    picture = reopened(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert picture.n_frames == 2
    assert close(prepared(picture, (32, 32))[0, 0], RED)


def test_crop_shows_the_middle_pad_shows_everything_stretch_fills():
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(BLUE, (32, 0, 64, 32))
    assert close(prepared(wide, (32, 32))[16, [1, 16, 30]], (BLUE, BLUE, BLUE), 30)
    padded = prepared(wide, (48, 48), fit="pad", background="lime")
    assert close(padded[[2, 24, 45], 4], (GREEN, RED, GREEN)) and close(padded[24, 24], BLUE)
    assert close(prepared(wide, (48, 48), fit="stretch")[[2, 45], 4], (RED, RED))
    assert prepared(wide, (48, 48), channels=4, fit="pad")[[2, 24], 24, 3].tolist() == [0, 255]
    assert prepared(wide, (48, 48), channels=1, fit="pad")[2, 24].tolist() == [255]


def test_size_is_height_then_width():
    assert prepared(Image.new("RGB", (50, 70)), (64, 32)).shape == (64, 32, 3)


def test_fine_stripes_become_even_grey_and_not_moire():
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::2] = 255
    pixels = prepared(Image.fromarray(stripes), (16, 16), channels=1)
    assert np.abs(pixels[:, 2:-2].astype(int) - 127).max() <= 3


def test_an_unknown_background_is_named():
    with pytest.raises(UserError, match='no colour "whitish"'):
        prepared(Image.new("RGB", (64, 64)), (32, 32), background="whitish")


def test_an_unknown_fit_is_named():
    with pytest.raises(UserError, match="fit: expected .*, got 'squeeze'"):
        Preparation((32, 32), fit="squeeze")


@pytest.mark.parametrize("error", [ConnectionError("reset"), TimeoutError()])
def test_a_connection_that_breaks_is_no_damaged_picture(error):
    def read(row):
        raise error

    with pytest.raises(type(error)):
        list(decode_all(read, [{"name": "a.png"}], Preparation((32, 32)), threads=1))
