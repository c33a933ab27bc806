import pytest
import torch

from fastgan.growing import level_at, shrink


def test_each_size_lasts_twice_as_long_as_the_one_before():
    levels = [level_at([64, 128, 256, 512], (part + 0.01) / 15) for part in range(15)]
    assert levels == [64, *2 * [128], *4 * [256], *8 * [512]]
    assert level_at([64, 128], 1.0) == 128
    assert level_at([256], 0.0) == level_at([256], 1.0) == 256


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_pixel_is_the_mean_of_its_square(channels):
    images = torch.rand(2, channels, 8, 12) * 2 - 1
    small = shrink(images, 4)
    assert small.shape == (2, channels, 2, 3)
    torch.testing.assert_close(small[1, 0, 1, 2], images[1, 0, 4:, 8:].mean())
    assert shrink(images, 1) is images


def test_hidden_colours_do_not_bleed_into_small_pictures():
    red, green = torch.tensor([1.0, -1.0, -1.0]), torch.tensor([-1.0, 1.0, -1.0])
    images = torch.empty(1, 4, 4, 4)
    images[:, :3], images[:, 3] = green[:, None, None], -1.0
    images[:, :3, :, ::2], images[:, 3, :, ::2] = red[:, None, None], 1.0  # opaque red beside hidden green
    images[:, 3, :, 2:] = -1.0  # the right half is hidden whatever its colour
    small = shrink(images, 2)
    torch.testing.assert_close(small[0, 3], torch.tensor([[0.0, -1.0]] * 2))
    torch.testing.assert_close(small[0, :3, 0, 0], red, atol=0.04, rtol=0)
    torch.testing.assert_close(small[0, :3, 0, 1], (red + green) / 2)
    torch.testing.assert_close(shrink(torch.full((1, 4, 4, 4), 0.5), 4), torch.full((1, 4, 1, 1), 0.5))
