import pytest
import torch

from fastgan.losses import PerceptualDistance, d_hinge, g_hinge, reconstruction
from fastgan.models import Images, Reconstructions, quadrant_of


def test_hinge_is_zero_beyond_the_margin_and_one_at_zero():
    beyond = torch.full((4, 1, 5, 5), 1.0)
    assert d_hinge(beyond, real=True) == 0
    assert d_hinge(-beyond, real=False) == 0
    assert d_hinge(torch.zeros(4), real=True, margin=(1, 1)) == 1
    assert d_hinge(beyond, real=False, margin=(1, 1)) == 2


def test_hinge_margin_is_drawn_from_its_range_for_every_logit():
    logits = torch.zeros(100_000)
    losses = torch.stack([d_hinge(logits[i : i + 1], real=True) for i in range(200)])
    assert losses.min() >= 0.8 and losses.max() <= 1.0
    assert losses.std() > 0.03
    assert d_hinge(logits, real=False).item() == pytest.approx(0.9, abs=1e-3)


def test_generator_wants_high_logits():
    assert g_hinge(torch.tensor([1.0, 3.0])) == -2


@pytest.fixture(scope="module")
def distance():
    return PerceptualDistance()


def test_perceptual_distance_is_zero_for_the_same_and_grows_with_the_change(distance):
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    smooth = torch.nn.functional.avg_pool2d(picture, 9, 1, 4)
    near = distance(smooth + 0.02 * torch.randn_like(smooth), smooth)
    far = distance(picture, smooth)
    assert distance(smooth, smooth) == 0
    assert 0 < near < far


def test_perceptual_distance_of_several_sets_is_the_mean_of_each(distance):
    torch.manual_seed(0)
    target, one, other = torch.rand(3, 2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(
        distance(torch.cat([one, other]), target), (distance(one, target) + distance(other, target)) / 2
    )
    assert distance(one, target) != distance(other, target)


def test_perceptual_distance_teaches_the_first_picture_and_not_its_own_network(distance):
    a = torch.zeros(1, 3, 32, 32, requires_grad=True)
    distance(a, torch.rand(1, 3, 32, 32)).backward()
    assert a.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in distance.parameters())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_reconstruction_is_zero_for_a_perfect_decoder(distance, channels):
    torch.manual_seed(0)
    full = torch.rand(2, channels, 128, 128) * 2 - 1
    quadrant = torch.nn.functional.interpolate(quadrant_of(full, 2), size=(128, 128), mode="bilinear")
    perfect = Reconstructions(full, quadrant, full)
    images = Images(full, full[:, :, ::2, ::2])
    assert reconstruction(perfect, images, 2, distance) == 0
    assert reconstruction(perfect, images, 1, distance) > 0
