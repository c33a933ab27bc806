import itertools

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import fast, objectives, sampling
from fastgan.checkpoints import checkpoints_in
from fastgan.models import Generator
from fastgan.objectives import frozen
from fastgan.projected import as_looked_at, contents
from fastgan.trainer import Trainer, train
from tests.runs import GROWING, assert_equal, newest


def test_views_of_real_pictures_are_kept_step_by_step_whatever_its_parts(tiny):
    kept = []
    for accumulate in (1, 2):
        run = train(tiny(f"in {accumulate}", recipe="projected", batch_size=4, accumulate=accumulate, max_steps=3))
        kept.append(load_file(checkpoints_in(run / "checkpoints")[-1] / "memory.safetensors"))
    assert {len(view) for views in kept for view in views.values()} == {12}
    # Each part is changed in its own way, so only the means over pictures are about the same.
    for name, view in kept[0].items():
        torch.testing.assert_close(view.mean(), kept[1][name].mean(), rtol=0.1, atol=0.1)


@pytest.fixture
def few(monkeypatch):
    """Anchors after 16 pictures."""
    monkeypatch.setattr(objectives, "KEPT", 16)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_real_pictures_get_anchors_once_enough_are_kept_which_stay_while_pictures_grow(
    tiny, few, accumulate, monkeypatch
):
    monkeypatch.setattr(objectives, "REMEMBERED", 30)
    trainer = Trainer(tiny(**{**GROWING, "size": "64", "accumulate": accumulate}))
    objective, anchored, lasting = trainer.learners.objective, [], []

    def step():
        trainer.sums.clear()
        trainer.step(trainer.feed.batches(trainer.state.images))
        anchored.append(float(trainer.sums["loss/anchored"]) > 0)
        lasting.append(trainer.learners.objective.lasting())

    for _ in range(3):
        step()
    assert "anchors.axes" not in lasting[0] and lasting[1]["anchors.axes"].shape[1] > 4
    trainer.grow(64)
    assert trainer.learners.objective is not objective
    assert_equal(lasting[2], trainer.learners.objective.lasting())
    for _ in range(3):
        step()
    assert anchored == [False, False, True, True, True, True]
    assert [len(found["anchors.seen"]) for found in lasting[1:]] == [16, 24, 30, 30, 30]
    for before, after in itertools.pairwise(lasting[1:]):
        seen = after["anchors.seen"][: len(before["anchors.seen"])]
        assert_equal(before, {**after, "anchors.seen": seen})  # seeds keep theirs
    trainer.close()


def test_latents_lie_around_the_anchors_of_the_pictures_that_are_shown_with_them(tiny, few, monkeypatch):
    monkeypatch.setattr(objectives, "SPREAD", 0.0)
    trainer = Trainer(tiny(recipe="projected", augment="none"))
    batches = trainer.feed.batches(0)
    trainer.step(batches)
    trainer.step(batches)
    latents = []
    trainer.learners.players.generator.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    real = next(batches)
    trainer.train_on(real)
    objective = trainer.learners.objective
    anchors = objective.anchors(contents(objective.features.network(as_looked_at(real, 128))))
    n = anchors.shape[1]
    torch.testing.assert_close(latents[0][:, :n], anchors)
    trainer.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"energy_weight": 0},
        {"anchor_weight": 0},
        {"energy_weight": 0, "anchor_weight": 0},
        {"batch_size": 2},
        {"batch_size": 3},
        {"channels": 1},
        {"channels": 4},
        {"z_dim": 2},
    ],
)
def test_anchors_go_with_every_setting(tiny, few, changes):
    trainer = Trainer(tiny(recipe="projected", **changes))
    batches = trainer.feed.batches(0)
    for _ in range(16 // trainer.config.batch_size + 2):
        trainer.sums.clear()
        trainer.step(batches)
    assert (trainer.sums["loss/anchored"] > 0) == (changes.get("anchor_weight") != 0)
    assert (trainer.sums["loss/energy"] > 0) == (changes.get("energy_weight") != 0)
    assert bool(trainer.learners.objective.memory()) == (len(changes) == 1)
    assert trainer.learners.are_finite()
    trainer.close()


def test_the_anchor_of_a_transparent_picture_does_not_tell_what_it_lies_on(tiny):
    trainer = Trainer(tiny(recipe="projected", channels=4, augment="none"))
    real = torch.rand(8, 4, 32, 32) * 2 - 1
    for _ in range(2):
        trainer.train_on(real)
    views = trainer.learners.objective.memory().values()
    assert [torch.equal(view[:8], view[8:]) for view in views] == 8 * [False] + 3 * [True]
    trainer.close()


def test_the_seeds_of_a_model_lie_around_anchors_once_its_run_has_some(tiny, few):
    before, after = (Generator.from_pretrained(train(tiny(f"{n}", recipe="projected", max_steps=n))) for n in (1, 3))
    assert before.anchors is None and before.config.anchors == 0
    assert after.anchors.shape == (after.config.anchors, after.config.anchor_dim) == (24, 15)
    assert after.config.spread == objectives.SPREAD
    z, _ = sampling.seeded_inputs(after, range(8))
    anywhere, _ = sampling.seeded_inputs(before, range(8))
    assert torch.cdist((z - 0.6 * anywhere)[:, :15], 0.8 * after.anchors).min(1).values.max() < 1e-4
    assert torch.equal(z[:, 15:], anywhere[:, 15:])


@pytest.mark.parametrize("steps", [1, 3])  # before there are anchors, and after
def test_a_run_with_anchors_resumes_to_the_last_bit(tiny, few, steps):
    whole = train(tiny("whole", recipe="projected"))
    train(tiny("halves", recipe="projected", max_steps=steps))
    halves = train(tiny("halves", recipe="projected"), resume=True)
    assert_equal(newest(whole), newest(halves))
    with pytest.raises(AssertionError):
        assert_equal(newest(whole), newest(train(tiny("without", recipe="projected", anchor_weight=0))))


def test_a_scale_that_grows_reaches_both_networks_between_batches(tiny):
    """Scaling by powers of two is exact: weights are those of a run without it, unless parts of one batch differ."""
    weights = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)):
        trainer = Trainer(tiny(accumulate=2))
        trainer.accelerator.scaler = scaler
        batches = trainer.feed.batches(0)
        for _ in range(3):
            trainer.step(batches)
        networks, _ = trainer.learners.parts()
        weights.append({name: t.clone() for n in networks.values() for name, t in n.state_dict().items()})
        trainer.close()
    assert scaler.get_scale() == 16
    assert_equal(*weights)


def test_the_discriminator_holds_no_gradient_after_the_generators_step(tiny):
    trainer = Trainer(tiny())
    trainer.train_on(next(trainer.feed.batches(0)))
    assert all(parameter.grad is None for parameter in trainer.learners.players.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in trainer.learners.players.discriminator.parameters())
    trainer.close()


class Waits(TorchDispatchMode):
    """Counts the operations for which a device would have to be waited for."""

    operations = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in self.operations
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(("recipe", "waits"), [("projected", 0), ("paper", 1)])
def test_a_step_never_waits_for_the_device(tiny, monkeypatch, few, recipe, waits, enabled):
    trainer = Trainer(tiny(recipe=recipe, batch_size=8, fast=enabled))
    batches = trainer.feed.batches(0)
    for _ in range(2):  # with the second, which waits for it once in a run, come anchors
        trainer.step(batches)
    real = next(batches)
    copies = []
    # The speed-ups of CPUs read small tensors of theirs; without them a CPU goes the way of other devices.
    for name in () if enabled else ("cpu", "numpy", "tolist", "nonzero"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, f=method, n=name, **k: copies.append(n) or f(*a, **k))
    with fast.use(enabled), Waits() as guard:
        trainer.step(iter([real]))
    trainer.close()
    assert not copies
    if enabled:  # where plain Adam reads its count of steps, on the CPU whatever the device
        assert guard.count == waits  # as the paper's recipe draws the number of a quadrant


@pytest.mark.parametrize("recipe", ["projected", "paper"])
def test_a_whole_step_is_the_plain_one(tiny, recipe):
    """What is compared: Adam's first moments, which are parts of the gradients, of both networks after a step.

    Where real and drawn pictures pull in opposite directions next to nothing is left of a gradient but rounding, so an
    error counts against a thousandth of the largest one at least.
    """
    moments = []
    for enabled in (True, False):
        trainer = Trainer(tiny(f"fast is {enabled}", recipe=recipe, fast=enabled, learning_rate=1e-9))
        with fast.use(enabled):
            trainer.step(trainer.feed.batches(0))
        _, optimizers = trainer.learners.parts()
        states = {name: optimizer.state_dict()["state"] for name, optimizer in optimizers.items()}
        moments.append({f"{name} {i}": s["exp_avg"].clone() for name in states for i, s in states[name].items()})
        trainer.close()
    quick, plain = moments
    assert quick.keys() == plain.keys() and len(plain) > 50
    least = max(float(moment.norm()) for moment in plain.values()) / 1000
    apart = {name: float((quick[name] - moment).norm() / max(moment.norm(), least)) for name, moment in plain.items()}
    assert max(apart.values()) < 0.01, sorted(apart.items(), key=lambda item: item[1])[-5:]


def test_frozen_puts_back_the_flags_it_found():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(RuntimeError), frozen(network) as judge:
        assert not any(parameter.requires_grad for parameter in judge.parameters())
        raise RuntimeError
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, True, False, False]
