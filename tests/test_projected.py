import pytest
import torch

from fastgan.config import ModelConfig, TrainConfig
from fastgan.objectives import as_changed, opaque
from fastgan.projected import (
    MixedFeatures,
    ProjectedDiscriminator,
    energy_distance,
    paired_distance,
    summaries,
)


@pytest.fixture(scope="module")
def features():
    return MixedFeatures()


def config(height: int, width: int, channels: int = 3) -> ModelConfig:
    return ModelConfig(height, width, channels, z_dim=8, ngf=4)


def test_mixed_features_are_the_same_on_every_machine_and_leave_the_random_state_alone(features):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = MixedFeatures()
    assert torch.equal(before, torch.get_rng_state())
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    for ours, theirs in zip(features(images).mixed, again(images).mixed, strict=True):
        assert torch.equal(ours, theirs)


def test_features_hold_nothing_to_train_but_pass_gradients_to_the_picture(features):
    images = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    sum(x.sum() for x in features(images).mixed).backward()
    assert images.grad.abs().min() > 0
    assert not any(parameter.requires_grad for parameter in features.parameters())


def test_every_scale_knows_of_the_coarser_ones(features):
    images = (torch.rand(1, 3, 128, 128) * 2 - 1).requires_grad_()
    [gradient] = torch.autograd.grad(features(images).mixed[0][..., 0, 0].sum(), images)
    assert gradient[..., -1, -1].abs().sum() > 0  # far beyond what a stride of 4 sees by itself


@pytest.mark.parametrize(
    ("size", "seen"),
    [((32, 32), (64, 64)), ((128, 192), (256, 384)), ((256, 256), (256, 256)), ((1024, 1536), (256, 384))],
)
def test_pictures_are_shown_at_about_one_size_small_ones_doubled(features, size, seen):
    finest = features(torch.zeros(1, 3, *size)).mixed[0]
    assert finest.shape[2:] == (seen[0] // 4, seen[1] // 4)


@pytest.mark.parametrize(
    "height, width, heads",
    [(32, 32, 3), (64, 64, 4), (128, 128, 4), (64, 96, 4), (256, 256, 4), (512, 512, 4), (1024, 1024, 4)],
)
def test_each_size_has_its_heads_and_one_look_at_the_pixels(features, height, width, heads):
    discriminator = ProjectedDiscriminator(config(height, width))
    images = torch.rand(2, 3, height, width) * 2 - 1
    logits = discriminator(features(images).mixed, images)
    assert len(logits) == heads + 1
    assert all(part.ndim == 2 and len(part) == 2 and part.shape[1] >= 4 for part in logits)


def test_grey_pictures_are_judged_as_they_are(features):
    discriminator = ProjectedDiscriminator(config(32, 32, 1))
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    assert len(discriminator(features(images).mixed, images)) == 4


def test_transparency_shows_on_colours_and_gets_gradients():
    clear, solid = torch.full((8, 4, 2, 2), -1.0), torch.full((8, 4, 2, 2), 1.0)
    assert opaque(clear).std(dim=0).min() > 0.1  # nothing but the colours, which differ
    assert torch.equal(opaque(solid), torch.ones(8, 3, 2, 2))
    assert torch.equal(opaque(solid[:, :3]), solid[:, :3])
    half = torch.zeros(8, 4, 2, 2, requires_grad=True)
    opaque(half).square().sum().backward()
    assert half.grad[:, 3].abs().min() > 0


def test_views_of_pictures_are_vectors_that_say_where_things_are(features):
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    turned = images.flip(3)
    views, other = (summaries(features(x).plain, x) for x in (images, turned))
    assert all(view.shape[0] == 2 and view.ndim == 2 and view.dtype == torch.float32 for view in views)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(views[:5], other[:5], strict=True))


def test_the_energy_distance_is_the_published_one():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    between = sum((a - b).norm() for a in x for b in y) / 35
    among = sum((x[i] - x[j]).norm() for i in range(5) for j in range(5) if i != j) / 20
    torch.testing.assert_close(energy_distance([x], [y]), (2 * between - among) / between)


def test_pictures_that_are_all_alike_are_far_even_where_the_real_ones_are():
    torch.manual_seed(0)
    real = torch.randn(64, 8)
    alike = real[:1].repeat(16, 1) + 1e-3 * torch.randn(16, 8)
    varied = torch.randn(16, 8)
    assert energy_distance([varied], [real]) < energy_distance([alike], [real]) - 0.5


def test_the_paired_distance_is_a_share_of_that_to_any_picture():
    x, y, others = (torch.randn(count, 3, dtype=torch.float64) for count in (5, 5, 9))
    pairs = sum((a - b).norm() for a, b in zip(x, y, strict=True)) / 5
    between = sum((a - b).norm() for a in x for b in others) / 45
    torch.testing.assert_close(paired_distance([x], [y], [others]), pairs / between, atol=1e-5, rtol=1e-5)
    drawn = y.clone().requires_grad_()
    paired_distance([drawn], [y], [others]).backward()  # there already: nothing to learn, and no nonsense
    assert drawn.grad.abs().max() < 1


def test_pictures_that_are_equal_pass_no_nonsense_back():
    drawn = torch.zeros(4, 8, requires_grad=True)
    energy_distance([drawn], [torch.randn(6, 8)]).backward()
    assert drawn.grad.isfinite().all() and drawn.grad.abs().sum() > 0


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_drawn_and_real_pictures_are_changed_alike(channels):
    settings = TrainConfig(dataset="pictures", size="32", channels=channels, augment="color,translation,cutout")
    images = torch.rand(4, channels, 32, 32) * 2 - 1
    one, other, next_one = (opaque(as_changed(images, settings, seed)) for seed in (0, 0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, next_one)


def test_a_transparent_picture_that_moves_shows_no_edge():
    settings = TrainConfig(dataset="pictures", size="32", channels=4, augment="translation")
    clear = torch.cat([torch.rand(8, 3, 32, 32), torch.full((8, 1, 32, 32), -1.0)], dim=1)
    seen = opaque(as_changed(clear, settings, seed=0))
    assert torch.equal(seen, seen[:, :, :1, :1].expand_as(seen))


@pytest.mark.parametrize(("side", "step"), [(128, 1), (256, 4)])
def test_large_pictures_move_by_steps(side, step):
    settings = TrainConfig(dataset="pictures", size=str(side), augment="translation")
    moved = as_changed(torch.ones(32, 3, side, side), settings, seed=0)
    rows = (moved[:, 0] == 0).all(2).sum(1)  # that came in from outside
    assert rows.max() > side // 16
    assert torch.gcd(rows, torch.tensor(step)).min() == step
    assert (rows % (2 * step) == step).any()
