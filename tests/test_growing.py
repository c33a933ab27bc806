import pytest
import torch

from fastgan.config import ModelConfig
from fastgan.finetune import fill_from
from fastgan.growing import enlarge, level_at, shrink
from fastgan.models import Generator, downscale


def test_the_last_third_is_at_full_size_and_smaller_ones_last_twice_as_long_as_the_next():
    levels = [level_at([64, 128, 256, 512], (part + 0.01) / 21) for part in range(21)]
    assert levels == [*8 * [64], *4 * [128], *2 * [256], *7 * [512]]
    assert [level_at([128, 256], share) for share in (0, 0.66, 0.67, 1.0)] == [128, 128, 256, 256]
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


@pytest.mark.parametrize(("size", "channels"), [(64, 4), (128, 1), (256, 3)])
def test_a_generator_of_twice_the_size_begins_with_the_same_pictures(size, channels):
    torch.manual_seed(0)
    settings = {"channels": channels, "z_dim": 8, "ngf": 12, "output_activation": "tanh", "edge": "replicate"}
    smaller = Generator(ModelConfig(size // 2, size // 2, **settings))
    larger = Generator(ModelConfig(size, size, **settings))
    weight = smaller.to_full.parametrizations.weight.original
    with torch.no_grad():
        weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0  # taps are closer in a larger picture
    fill_from(larger, smaller)
    enlarge(larger, smaller)

    z = torch.randn(16, 8)
    noise = [torch.randn(16, 1, *maps) for maps in larger.noise_sizes()]
    with torch.no_grad():
        before = smaller(z, noise=noise[: len(smaller.noise_sizes())]).full
        after = larger(z, noise=noise).full
    assert before.std() > 0.1
    torch.testing.assert_close(downscale(after, 2), before, atol=0.1, rtol=0)
    assert (after - before.repeat_interleave(2, 2).repeat_interleave(2, 3)).abs().max() < 0.1


def test_what_begins_as_an_enlargement_goes_on_learning():
    torch.manual_seed(0)
    smaller, larger = (Generator(ModelConfig(size, size, z_dim=8, ngf=12)) for size in (128, 256))
    fill_from(larger, smaller)
    enlarge(larger, smaller)
    optimizer = torch.optim.Adam(larger.parameters(), lr=1e-3)
    z, goal = torch.randn(8, 8), torch.rand(8, 3, 256, 256) * 2 - 1
    losses = []
    for _ in range(3):
        loss = (larger(z).full - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    idle = [name for name, p in larger.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["to_small.parametrizations.weight.original"]


def test_a_map_too_narrow_for_a_picture_is_left_as_it_was():
    smaller, larger = (Generator(ModelConfig(size, size, z_dim=8, ngf=4)) for size in (128, 256))
    state = {name: tensor.clone() for name, tensor in larger.state_dict().items()}
    enlarge(larger, smaller)
    assert all(torch.equal(tensor, state[name]) for name, tensor in larger.state_dict().items())


@pytest.mark.parametrize(("size", "channels", "ngf"), [(128, 4, 4), (256, 3, 6)])
def test_a_gated_map_of_nothing_but_the_pictures_channels_stays_finite(size, channels, ngf):
    smaller, larger = (Generator(ModelConfig(side, side, channels, z_dim=8, ngf=ngf)) for side in (size // 2, size))
    assert larger.to_full.in_channels == channels
    enlarge(larger, smaller)
    with torch.no_grad():
        assert larger(torch.randn(4, 8)).full.isfinite().all()
