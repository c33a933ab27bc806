import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3, metric_fid, metric_kid, metric_prc

from fastgan.errors import UserError
from fastgan.metrics import (
    density_coverage,
    diversity,
    extract,
    feature_network,
    fid,
    kid,
    measure,
    memorisation,
    nearest_training,
    precision_recall,
    real_features,
)
from tests.commands import EMOJI

SIDE = 48


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(*places: float) -> Tensor:
    return torch.tensor(places)[:, None]


@pytest.fixture(scope="module")
def network():
    return feature_network("efficientnet-lite0")


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """48 pictures of the sample set on white: uint8, [48, 3, 48, 48]."""
    pictures = []
    for file in sorted(EMOJI.glob("*.webp"))[::4][:48]:
        picture = Image.open(file).convert("RGBA").resize((SIDE, SIDE))
        pictures.append(np.array(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))[..., :3])
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def real(network, faces) -> Tensor:
    return extract(network, faces)


# Known values


@pytest.mark.parametrize("shape", [(40, 100), (300, 20)])
def test_fid_of_a_set_with_itself_is_zero(shape):
    features = normal(*shape)
    assert abs(fid(features, features)) < 1e-8
    assert abs(fid(features, features.flip(0))) < 1e-8


@pytest.mark.parametrize("shape", [(40, 100), (300, 20)])
def test_fid_of_a_moved_and_stretched_set_follows_the_closed_form(shape):
    features = normal(*shape)
    variance = features.var(0).sum()
    moved = 3 * features + 2  # covariance 9 C, and |μ₁ - μ₂|² + Tr(C + 9 C - 2 · 3 C) is left
    expected = (moved.mean(0) - features.mean(0)).square().sum() + 4 * variance
    assert fid(features, moved) == pytest.approx(expected.item(), rel=1e-9)


def test_fid_of_two_gaussians_approaches_the_closed_form():
    scales = torch.tensor([1.0, 2.0, 0.5])
    shift = torch.tensor([0.0, 1.0, -2.0])
    expected = shift.square().sum() + (scales - 1).square().sum()
    assert fid(normal(20000, 3), normal(20000, 3, seed=1) * scales + shift) == pytest.approx(expected.item(), rel=0.02)


def test_kid_is_unbiased_and_its_spread_is_the_true_one():
    shift = 0.3
    runs = [kid(normal(30, 8, seed=2 * s), normal(40, 8, seed=2 * s + 1) + shift) for s in range(200)]
    means = torch.tensor([run.mean for run in runs])
    truth = kid(normal(4000, 8, seed=900), normal(4000, 8, seed=901) + shift)
    error = means.std() / len(runs) ** 0.5
    assert abs(means.mean() - truth.mean) < 3 * error + 3 * truth.std
    assert torch.tensor([run.std for run in runs]).mean() == pytest.approx(means.std().item(), rel=0.25)


def test_kid_of_one_distribution_is_zero_within_its_spread():
    inside = [abs(k.mean) < 2 * k.std for s in range(40) for k in [kid(normal(50, 16, s), normal(50, 16, 100 + s))]]
    assert sum(inside) >= 34


def test_kid_subsets_repeat_with_the_seed_and_agree_with_the_whole():
    a, b = normal(100, 8), normal(90, 8, seed=1) + 0.5
    by_subsets = kid(a, b, subsets=200, subset_size=50, seed=3)
    assert by_subsets == kid(a, b, subsets=200, subset_size=50, seed=3)
    assert by_subsets != kid(a, b, subsets=200, subset_size=50, seed=4)
    assert by_subsets.mean == pytest.approx(kid(a, b).mean, rel=0.05)


def test_precision_and_recall_count_pictures_inside_the_balls():
    real, fake = line(0, 1, 2, 3, 10), line(0.5, 1.5, 2.5, 30)
    # Radii for k = 1: around real pictures 1, 1, 1, 1, 7; around fakes 1, 1, 1, 27.5.
    assert precision_recall(real, fake, k=1) == (3 / 4, 5 / 5)
    assert precision_recall(real, fake[:3], k=1) == (1, 4 / 5)


def test_density_and_coverage_count_real_balls():
    real, fake = line(0, 1, 2, 10), line(0.5, 0.6, 40)
    # Radii for k = 1: 1, 1, 1, 8. Both near fakes are in the balls of 0 and 1, neither in those of 2 and 10.
    assert density_coverage(real, fake, k=1) == (4 / 3, 2 / 4)


def test_density_and_coverage_are_the_published_sums():
    """Equations 3 and 4 of arXiv:2002.09797, pair by pair."""
    real, fake = normal(40, 8), normal(30, 8, seed=1) + 1
    ball = [sorted(float((a - b).norm()) for b in real)[5] for a in real]  # the nearest is the picture itself
    inside = [[float((x - y).norm()) <= radius for x, radius in zip(real, ball, strict=True)] for y in fake]
    density = sum(map(sum, inside)) / (5 * len(fake))
    coverage = sum(map(any, zip(*inside, strict=True))) / len(real)
    assert density_coverage(real, fake, k=5) == pytest.approx((density, coverage))
    assert 0 < coverage < 1 and density != pytest.approx(1, abs=0.05)


def test_distances_to_training_pictures_name_the_nearest():
    found = nearest_training(line(0.9, 7, 2), line(2, 0, 10))
    assert found.distances[:, 0].tolist() == pytest.approx([0.9, 3, 0])
    assert found.indices[:, 0].tolist() == [1, 2, 0]
    two = nearest_training(line(0.9, 7), line(2, 0, 10), k=2)
    assert two.distances.flatten().tolist() == pytest.approx([0.9, 1.1, 3, 5])
    assert two.indices.tolist() == [[1, 0], [2, 0]]


def test_a_training_picture_is_as_near_as_its_mirror_image():
    found = nearest_training(line(0.9, 7), line(2, 0, 10), mirrored=line(1, 50, 60), k=2)
    assert found.distances.flatten().tolist() == pytest.approx([0.1, 0.9, 3, 5])
    assert found.indices.tolist() == [[0, 1], [2, 0]]
    with pytest.raises(UserError, match="2 mirrored pictures for 3 real ones"):
        nearest_training(line(0.9), line(2, 0, 10), mirrored=line(1, 50))


def test_memorisation_measures_against_distances_between_training_pictures():
    real = normal(400, 6)
    fresh, near = normal(400, 6, seed=1), real + 1e-3 * normal(400, 6, seed=2)
    assert memorisation(fresh, real).near_share == pytest.approx(0.05, abs=0.03)
    assert memorisation(fresh, real).distance_ratio == pytest.approx(1, abs=0.1)
    assert memorisation(near, real).near_share == 1
    assert memorisation(near, real).distance_ratio < 0.01
    assert memorisation(real, real)[:2] == (1, 0)
    assert max(memorisation(real, real).generated) == 0
    assert memorisation(torch.cat([fresh[:300], real[:100]]), real).near_share == pytest.approx(0.29, abs=0.03)
    twice = torch.cat([real, real[:50]])  # pictures that are there twice are no measure of what is near
    assert memorisation(near, twice).near_share == 1
    assert memorisation(near, twice).distance_ratio == pytest.approx(memorisation(near, real).distance_ratio, rel=0.1)
    assert memorisation(fresh, torch.cat([real, real])).near_share == pytest.approx(0.05, abs=0.03)
    assert memorisation(fresh, real[:1].repeat(8, 1))[:2] == (0, 1)
    assert memorisation(real[:1], real[:1].repeat(8, 1))[:2] == (1, 0)


def test_mirrored_copies_show_and_a_picture_is_no_neighbour_of_its_own_mirror_image():
    real = normal(300, 6)
    mirrored = real * torch.tensor([-1, 1, 1, 1, 1, 1])
    copies, fresh = mirrored[:50], normal(300, 6, seed=1)
    assert memorisation(copies, real).near_share < 0.5
    assert memorisation(copies, real, mirrored).near_share == 1
    assert memorisation(copies, real, mirrored).distance_ratio == 0
    assert memorisation(fresh, real, mirrored).near_share == pytest.approx(0.05, abs=0.04)
    assert memorisation(fresh, real, mirrored).distance_ratio == pytest.approx(1, abs=0.1)
    among_both = memorisation(fresh, real, mirrored).training
    # By hand: distances to all others and to the mirror images of all others.
    others = torch.cdist(real, torch.cat([real, mirrored])) + torch.eye(300).repeat(1, 2) * 1e9
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert among_both == pytest.approx(others.min(1).values.quantile(levels).tolist(), rel=1e-6)


def test_diversity_is_the_mean_distance_of_pairs():
    assert diversity(line(0, 1, 3)) == pytest.approx((1 + 3 + 2) / 3)
    assert diversity(torch.ones(5, 4)) == 0


def test_blocks_of_rows_change_nothing(monkeypatch, network):
    a, b = normal(50, 12), normal(40, 12, seed=1) + 0.2
    whole = measure(a, b, network)
    monkeypatch.setattr("fastgan.metrics.BLOCK_ROWS", 7)
    for key, value in measure(a, b, network).to_dict().items():
        assert value == pytest.approx(getattr(whole, key)), key


# Against torch-fidelity


def feature_pairs() -> list[tuple[Tensor, Tensor]]:
    mixing = normal(6, 200, seed=2)  # fewer pictures than features, and correlated ones, as real features are
    few = (normal(60, 6) @ mixing).abs(), ((normal(50, 6, seed=1) + 0.5) @ mixing).abs()
    many = normal(400, 24).abs(), (normal(300, 24, seed=1) + 0.3).abs()
    return [few, many]


@pytest.mark.parametrize("pair", feature_pairs(), ids=["few", "many"])
def test_fid_agrees_with_torch_fidelity(pair):
    reference = metric_fid
    statistics = [reference.fid_features_to_statistics(features) for features in pair]
    theirs = reference.fid_statistics_to_metric(*statistics, verbose=False)[reference.KEY_METRIC_FID]
    assert fid(*pair) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("pair", feature_pairs(), ids=["few", "many"])
def test_kid_agrees_with_torch_fidelity(pair):
    reference = metric_kid
    size = min(len(features) for features in pair)
    pair = [features[:size] for features in pair]  # one subset that holds everything leaves nothing to chance
    theirs = reference.kid_features_to_metric(*pair, kid_subsets=1, kid_subset_size=size, verbose=False)
    assert kid(*pair).mean == pytest.approx(theirs[reference.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert kid(*pair, subsets=1, subset_size=size).mean == pytest.approx(kid(*pair).mean, rel=1e-9)


@pytest.mark.parametrize("pair", feature_pairs(), ids=["few", "many"])
def test_precision_and_recall_agree_with_torch_fidelity(pair):
    reference = metric_prc
    real, fake = pair
    theirs = reference.prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    expected = theirs[reference.KEY_METRIC_PRECISION], theirs[reference.KEY_METRIC_RECALL]
    assert precision_recall(real, fake) == pytest.approx(expected, abs=1e-7)
    assert all(0 < value < 1 for value in expected)


# Known cases on pictures


def test_noise_and_blur_raise_kid(network, faces, real):
    noise = torch.randn(faces.shape, generator=torch.Generator().manual_seed(0)) * 40
    noisy = (faces + noise).clamp(0, 255).byte()
    small = torch.nn.functional.interpolate(faces.float(), scale_factor=1 / 6, mode="area")
    blurred = torch.nn.functional.interpolate(small, size=SIDE, mode="bilinear").byte()
    between_halves = kid(real[::2], real[1::2])
    assert abs(between_halves.mean) < 3 * between_halves.std
    for spoilt in (noisy, blurred):
        figures = measure(real, extract(network, spoilt), network)
        assert figures.kid > 10 * abs(between_halves.mean)
        assert figures.kid > 5 * figures.kid_std
        assert figures.precision < 0.3
        assert figures.near_share == 0
        assert figures.distance_ratio > 1.2


def test_two_halves_of_one_set_are_alike_in_every_figure(network, real):
    halves = measure(real[::2], real[1::2], network)
    assert abs(halves.kid) < 3 * halves.kid_std
    assert halves.precision > 0.5 and halves.recall > 0.5
    assert 0.6 < halves.density < 1.6 and halves.coverage > 0.7
    assert halves.diversity == pytest.approx(1, abs=0.1)
    assert halves.near_share < 0.4 and 0.8 < halves.distance_ratio < 1.4


def test_four_pictures_repeated_lose_recall_coverage_and_diversity(network, real):
    whole, four = measure(real, real[torch.randperm(48)], network), measure(real, real[:4].repeat(12, 1), network)
    assert whole.recall == whole.coverage == 1
    assert whole.diversity == pytest.approx(1)
    assert four.precision == 1
    assert four.recall < 0.2
    assert four.coverage < 0.5
    assert four.diversity < 0.9


def test_exact_copies_are_seen_as_such_in_any_batch(network, faces, real):
    copies = measure(real, extract(network, faces[5:29] / 127.5 - 1, batch_size=5), network)
    assert copies.near_share == 1
    assert copies.distance_ratio == 0
    fresh = measure(real[:24], real[24:], network)
    assert fresh.near_share < 0.4
    assert fresh.distance_ratio > 0.8


# Pictures to features


def test_features_do_not_depend_on_how_pictures_come(network, faces, real):
    few = faces[:6]
    expected = pytest.approx(real[:6].numpy(), abs=1e-4)
    assert extract(network, few, batch_size=4).numpy() == expected
    assert extract(network, few / 127.5 - 1).numpy() == expected
    assert extract(network, (batch for batch in few.split(2))).numpy() == expected
    opaque = torch.cat([few, torch.full_like(few[:, :1], 255)], 1)
    assert extract(network, opaque).numpy() == expected


def test_grey_and_oblong_pictures_have_features(network):
    grey = torch.zeros(2, 1, 40, 70, dtype=torch.uint8)
    assert torch.equal(extract(network, grey), extract(network, grey.repeat(1, 3, 1, 1)))


def test_figures_say_what_they_were_measured_with(network, real):
    said = measure(real[:14], real[14:26], network, teachers=["efficientnet-lite0"]).to_dict()
    assert (said["real_images"], said["fake_images"]) == (14, 12)
    assert said["network"] == "efficientnet-lite0"
    assert said["resize"] == "antialiased bilinear to 224x224"
    assert said["network_taught_model"] is True
    assert measure(real[:14], real[14:26], network).network_taught_model is False
    assert measure(real[:14], real[14:26], network, teachers=None).network_taught_model is None


def test_real_features_are_kept_apart_by_fingerprint_and_survive_damage(network, faces, tmp_path):
    cache = tmp_path / "new" / "folder"
    first = real_features(faces[:3], "one", network, cache)
    real_features(faces[3:6], "two", network, cache)
    assert torch.equal(real_features([], "one", network, cache), first)
    files = sorted(cache.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(real_features(faces[:3], "one", network, cache), first)
    assert sorted(cache.iterdir()) == files


def test_a_cache_that_can_not_be_written_is_said(network, faces, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="feature cache: can't write to"):
        real_features(faces[:3], "one", network, tmp_path / "file")


def test_the_inception_network_is_that_of_torch_fidelity(monkeypatch, tmp_path, faces):
    reference = feature_extractor_inceptionv3

    class RandomWeights(reference.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """Keep the random weights: the real ones would have to be fetched."""

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = tmp_path / "hub" / "checkpoints" / Path(reference.URL_INCEPTION_V3).name
    weights.parent.mkdir(parents=True)
    torch.save({}, weights)
    theirs = RandomWeights("any", ["2048"], feature_extractor_weights_path=str(weights))
    torch.save(theirs.state_dict(), weights)
    network = feature_network("inception")
    assert (network.name, "299x299" in network.resize) == ("inception", True)
    assert torch.equal(extract(network, faces[:2]), theirs(faces[:2])[0])


def test_inception_that_can_not_be_fetched_says_so(monkeypatch, tmp_path):
    reference = feature_extractor_inceptionv3
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-00000000.pth")
    with pytest.raises(UserError, match="inception: can't fetch its weights"):
        feature_network("inception")
    (tmp_path / "hub" / "checkpoints" / "weights-00000000.pth").write_bytes(b"half a file")
    with pytest.raises(UserError, match="the weights are damaged, delete"):
        feature_network("inception")


# Mistakes


def test_an_unknown_network_names_the_choices():
    with pytest.raises(UserError, match="no 'vgg', choose one of inception, efficientnet-lite0"):
        feature_network("vgg")


def test_too_few_pictures_are_said(network):
    with pytest.raises(UserError, match="5 generated pictures are too few to compare, take at least 6"):
        measure(normal(10, 4), normal(5, 4), network)
    with pytest.raises(UserError, match="no pictures"):
        extract(network, [])
    with pytest.raises(UserError, match="subsets of 50 do not fit 10 real and 20 generated"):
        kid(normal(10, 4), normal(20, 4), subset_size=50)


def test_broken_pictures_and_features_are_said(network):
    with pytest.raises(UserError, match="not finite"):
        extract(network, torch.full((1, 3, 32, 32), torch.nan))
    with pytest.raises(UserError, match="features of the generated pictures are not finite"):
        fid(normal(10, 4), normal(10, 4) / 0)


def test_one_picture_has_as_many_neighbours_as_are_asked_for():
    near = nearest_training(line(4.0), line(0.0, 1.0, 3.0), k=2)
    assert near.indices.tolist() == [[2, 1]]
    assert near.distances.tolist() == [[1.0, 3.0]]


def test_a_set_that_is_one_picture_again_and_again_can_be_measured(network):
    same = torch.ones(8, 16)
    found = measure(same, -torch.rand(8, 16), network)
    assert math.isfinite(found.diversity) and found.recall == 0
    assert measure(same, same, network).diversity == 0
