import copy
import gc
import weakref

import pytest
import torch

from fastgan.models import downscale
from fastgan.trainer import Trainer
from tests.runs import GROWING


def test_growing_changes_no_layer_that_fits(tiny):
    trainer = Trainer(tiny(**GROWING))
    batches = trainer.feed.batches(0)
    trainer.train_on(next(batches))
    before = {name: copy.deepcopy(network.state_dict()) for name, network in trainer.learners.parts()[0].items()}
    trainer.grow(64)
    after = {name: network.state_dict() for name, network in trainer.learners.parts()[0].items()}
    changed = {
        name: {key for key, value in state.items() if not torch.equal(before[name].get(key, torch.empty(0)), value)}
        for name, state in after.items()
    }
    for name in ("generator", "ema"):
        assert all(key.startswith(("up.64.", "sle.64.", "to_")) for key in changed[name])
    assert not any(key.startswith("pixels.") for key in changed["discriminator"])
    assert changed["discriminator"] < {key for key in after["discriminator"] if key.startswith("heads.")}
    trainer.train_on(next(batches))
    trainer.close()
    weight = next(key for key in after["generator"] if key not in changed["generator"] and key.endswith("weight"))
    assert not torch.equal(before["generator"][weight], after["generator"][weight])  # it goes on learning


@pytest.mark.parametrize("level", [32, 64])
def test_both_generators_go_on_with_the_small_pictures(tiny, level):
    trainer = Trainer(tiny(**{**GROWING, "size": str(2 * level), "grow_from": level}, ngf=16))
    trainer.step(trainer.feed.batches(0))
    z = torch.randn(32, 16)

    def drawn() -> list[torch.Tensor]:
        networks, _ = trainer.learners.parts()
        with torch.no_grad():
            return [network.train()(z).full for name, network in networks.items() if name != "discriminator"]

    before = drawn()
    trainer.grow(2 * level)
    for small, large in zip(before, drawn(), strict=True):
        together = torch.stack([small.flatten(), downscale(large, 2).flatten()])
        assert torch.corrcoef(together)[0, 1] > 0.8
    trainer.close()


def test_networks_of_a_run_are_freed_with_it(tiny):
    trainer = Trainer(tiny())
    trainer.close()
    network = weakref.ref(trainer.learners.players.generator)
    gc.disable()
    try:
        del trainer
        assert network() is None
    finally:
        gc.enable()
