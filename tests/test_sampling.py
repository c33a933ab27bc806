import copy
import dataclasses

import numpy as np
import pytest
import torch

from fastgan import fast
from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.models import Generator
from fastgan.pixels import to_uint8
from fastgan.sampling import grid, parse_seeds, sample, seeded_inputs, to_pil
from tests.networks import anchors_at, lively_generator


@pytest.fixture(scope="module")
def generator():
    return lively_generator(ModelConfig(128, 128, z_dim=32, ngf=16), noise=0.2, vivid=False)


def test_same_seed_gives_the_same_picture_in_any_company(generator):
    alone = {seed: next(sample(generator, [seed]))[0] for seed in (3, 5, 8, 11, 12)}
    together = torch.cat(list(sample(generator, [12, 3, 11, 5, 8])))
    pairs = torch.cat(list(sample(generator, [8, 12, 5, 3, 11], batch_size=2)))
    for seed, picture in zip([12, 3, 11, 5, 8], together, strict=True):
        assert torch.equal(picture, alone[seed])
    for seed, picture in zip([8, 12, 5, 3, 11], pairs, strict=True):
        assert torch.equal(picture, alone[seed])
    assert not torch.equal(alone[3], alone[5])


@pytest.fixture(scope="module")
def anchored(generator):
    places = torch.randn(5, 20, generator=torch.Generator().manual_seed(9))
    return generator.anchored(anchors_at(places), spread=0.25)


def test_where_there_are_anchors_a_seeds_latent_lies_around_one_of_them(generator, anchored):
    anywhere, _ = seeded_inputs(generator, range(40))
    z, _ = seeded_inputs(anchored, range(40))
    assert torch.equal(z[:, 20:], anywhere[:, 20:])
    around = (z - 0.25 * anywhere)[:, :20] / (1 - 0.25**2) ** 0.5
    nearest = torch.cdist(around, anchored.anchors).min(dim=1)
    assert nearest.values.max() < 0.01 and len(nearest.indices.unique()) == 5
    assert torch.equal(seeded_inputs(anchored, [39, 7])[0], z[[39, 7]])
    larger = Generator(dataclasses.replace(anchored.config, height=256, width=256))
    larger.anchors = anchored.anchors
    assert torch.equal(seeded_inputs(larger, [39, 7])[0], z[[39, 7]])


def test_a_model_with_anchors_is_saved_loaded_and_drawn_as_it_is(anchored, tmp_path):
    anchored.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert loaded.config == anchored.config
    for name in ("anchors", "anchor_mean", "anchor_axes"):
        assert torch.equal(loaded.get_buffer(name), anchored.get_buffer(name))
    assert torch.equal(*(torch.cat(list(sample(model, [3, 5]))) for model in (loaded, anchored)))


def test_anchors_take_nothing_from_the_generator_that_gets_them(generator, anchored):
    assert generator.anchors is None and generator.config.anchors == 0
    theirs = anchored.state_dict()
    assert all(tensor.data_ptr() == theirs[name].data_ptr() for name, tensor in generator.state_dict().items())
    z = torch.randn(2, 32)
    noise = seeded_inputs(generator, [0, 1])[1]
    with torch.no_grad():
        assert torch.equal(generator(z, noise=noise).full, anchored(z, noise=noise).full)


def test_latents_at_random_are_distributed_as_those_of_seeds(generator, anchored):
    torch.manual_seed(0)
    for model in (generator, anchored):
        z, seeded = model.latents(400), seeded_inputs(model, range(400))[0]
        torch.testing.assert_close(z.mean(0), seeded.mean(0), atol=0.3, rtol=0)
        torch.testing.assert_close(z.std(0), seeded.std(0), atol=0.2, rtol=0)
    distances = torch.cdist(z[:, :20], (1 - 0.25**2) ** 0.5 * anchored.anchors).min(dim=1).values
    torch.testing.assert_close(distances.mean(), torch.tensor(0.25 * 20**0.5), atol=0.05, rtol=0)


def test_in_half_precision_pictures_are_a_shade_off_at_most(generator):
    half = copy.deepcopy(generator).to(torch.bfloat16)
    exact, quick = (torch.cat(list(sample(network, range(6)))).int() for network in (generator, half))
    assert next(half.parameters()).dtype == torch.bfloat16
    assert 0 < (exact - quick).abs().float().mean() < 1 and (exact - quick).abs().max() <= 8


def test_noise_follows_the_seed_too(generator):
    _, noise = seeded_inputs(generator, [1, 2])
    _, again = seeded_inputs(generator, [2])
    assert [tuple(maps.shape[2:]) for maps in noise] == generator.noise_sizes()
    assert all(torch.equal(maps[1:], other) for maps, other in zip(noise, again, strict=True))


def test_the_method_and_the_function_draw_the_same(generator):
    (picture,) = generator.sample(seeds=[7], psi=0.8)
    assert np.array_equal(np.asarray(picture), np.asarray(to_pil(next(sample(generator, [7], psi=0.8))[0])))


def test_truncation_lowers_variety(generator):
    full = torch.cat(list(sample(generator, range(8)))).float().std(dim=0).mean()
    half = torch.cat(list(sample(generator, range(8), psi=0.3))).float().std(dim=0).mean()
    assert half < full


def test_style_seeds_change_the_picture_and_own_seeds_do_not(generator):
    plain = next(sample(generator, [1]))
    assert torch.equal(next(sample(generator, [1], style_seeds=[1])), plain)
    assert not torch.equal(next(sample(generator, [1], style_seeds=[2])), plain)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("7, 1-2,9", [7, 1, 2, 9]), ("5-5", [5]), (" 1 - 2 ", [1, 2])],
)
def test_seed_ranges_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "3-", "5-3", "1,,2", "3 7", "0 1-2", "0-9999999999", "99999999999999999999"]
)
def test_bad_seed_ranges_are_refused_in_a_sentence(text):
    with pytest.raises(UserError, match="seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("bad", [-1, 2**32, 2**63, 1.5, "1"])
def test_bad_seeds_are_refused(generator, bad):
    with pytest.raises(UserError, match="seed"):
        next(sample(generator, [bad]))


def test_bytes_cover_the_range_and_clip():
    values = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_grids_have_the_mode_of_their_pictures(channels, mode):
    sheet = grid(torch.zeros(5, channels, 8, 8, dtype=torch.uint8))
    assert sheet.mode == mode
    assert sheet.size == (3 * 10 + 2, 2 * 10 + 2)


def test_seeds_may_be_of_any_whole_kind(generator):
    drawn = [
        torch.cat(list(sample(generator, seeds))) for seeds in ([0, 1], np.arange(2), torch.arange(2), iter((0, 1)))
    ]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    for seeds, says in ((5, "one alone is \\[0\\]"), ([1.5], "got 1.5"), (["a"], "got 'a'"), ([-1], "got -1")):
        with pytest.raises(UserError, match=says):
            list(sample(generator, seeds))


@pytest.mark.parametrize("quick", [True, False])
def test_a_generator_in_training_mode_draws_as_in_eval_mode_and_does_not_change(generator, quick):
    in_training = copy.deepcopy(generator).train()
    before = copy.deepcopy(in_training.state_dict())
    with fast.use(quick):
        drawn, expected = (torch.cat(list(sample(network, [3]))) for network in (in_training, generator))
    assert torch.equal(drawn, expected) and in_training.training
    assert all(torch.equal(before[name], tensor) for name, tensor in in_training.state_dict().items())


@pytest.mark.parametrize("strength", [2, -1, float("nan"), {64: 5}, {99: 1.0}, {"64": 1.0}])
def test_strengths_that_make_no_sense_are_refused(strength):
    generator = Generator(ModelConfig(64, 64, z_dim=8, ngf=4)).eval()
    with pytest.raises(UserError, match="style strength"):
        list(sample(generator, [1], style_seeds=[2], style_strength=strength))


def test_a_seed_is_the_same_picture_whatever_pytorch_takes_for_granted(generator):
    z, noise = seeded_inputs(generator, [0])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        other_z, other_noise = seeded_inputs(generator, [0])
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(z, other_z) and all(torch.equal(*pair) for pair in zip(noise, other_noise, strict=True))
