import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from fastgan import TrainConfig, UserError, objectives
from fastgan.checkpoints import checkpoints_in
from fastgan.cli import resolve
from fastgan.config import ModelConfig
from fastgan.finetune import fill, freeze_blocks, open_base
from fastgan.hub import from_pretrained, save_model
from fastgan.models import Discriminator, Generator, downscale
from fastgan.projected import ProjectedDiscriminator
from fastgan.trainer import Trainer, train
from tests.commands import EMOJI, only_line

WIDTHS = {"ngf": 4, "ndf": 4, "z_dim": 16}
PAPER = {"recipe": "paper", "batch_size": 8}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a dozen pictures in it, and room."""
    place = tmp_path_factory.mktemp("fine-tune")
    (place / "faces").mkdir()
    for file in sorted(EMOJI.glob("*.webp"))[::16]:
        shutil.copy(file, place / "faces")
    return place


@pytest.fixture(scope="session")
def settings(place):
    return {
        "dataset": str(place / "faces"),
        "cache_dir": str(place / "cache"),
        "size": "32",
        "eval_images": 0,
        "max_steps": 1,
        **WIDTHS,
        **PAPER,
    }


@pytest.fixture(scope="session")
def base(place, settings):
    """A run to start from."""
    return train(TrainConfig(output_dir=str(place / "base"), **settings))


@pytest.fixture
def start(base, settings, tmp_path, capsys):
    """Sets up a run that starts from the base; gives its trainer and what it said."""

    trainers = []

    def make(**changes):
        config = {**settings, "output_dir": str(tmp_path / "run"), "init_from": str(base), **changes}
        trainers.append(Trainer(TrainConfig(**config)))
        return trainers[-1], only_line(capsys.readouterr().err, "Starting from ")

    yield make
    for trainer in trainers:
        trainer.close()


def equal(network, tensors):
    return all(torch.equal(network.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_all_three_networks_continue(base, start):
    trainer, line = start()
    checkpoint = checkpoints_in(base / "checkpoints")[-1]
    assert equal(trainer.learners.players.generator, load_file(checkpoint / "generator.safetensors"))
    assert equal(trainer.learners.players.discriminator, load_file(checkpoint / "discriminator.safetensors"))
    assert equal(trainer.learners.ema.model, load_file(base / "model.safetensors"))
    assert line == "Starting from base: the generator keeps all 18 layers; the discriminator keeps all 33 layers"


def test_another_size_and_other_channels_keep_what_fits_and_say_which(base, start):
    trainer, line = start(size="64", channels=4)
    assert "the generator keeps 16 of 22 layers (new: up.64.conv, up.64.norm, sle.64.squeeze" in line
    assert "the discriminator keeps" in line
    old = load_file(base / "model.safetensors")
    assert torch.equal(trainer.learners.ema.model.up["32"].conv1.parametrizations.weight.original, old[UP_32])
    assert trainer.learners.players.generator.to_full.weight.shape[0] == 4


def test_a_smaller_model_is_enlarged(base, start, settings, tmp_path):
    small = train(TrainConfig(**{**settings, "ngf": 16, "output_dir": str(tmp_path / "small")}))
    trainer, line = start(init_from=str(small), size="128", ngf=16)
    assert "more), which begin by enlarging its pictures; the discriminator" in line
    smaller = Generator(ModelConfig(32, 32, z_dim=16, ngf=16))
    fill(smaller, checkpoints_in(small / "checkpoints")[-1] / "generator.safetensors")
    z = torch.randn(32, 16)
    with torch.no_grad():
        before, after = smaller(z).full, trainer.learners.players.generator(z).full
    assert torch.corrcoef(torch.stack([before.flatten(), downscale(after, 4).flatten()]))[0, 1] > 0.5


def test_the_average_begins_by_enlarging_the_average(start, settings, tmp_path):
    small = train(TrainConfig(**{**settings, "ngf": 16, "output_dir": str(tmp_path / "small")}))
    trainer, _ = start(init_from=str(small), size="64", ngf=16)
    far, _ = start(init_from=str(small), size="128", ngf=16, output_dir=str(tmp_path / "far"))
    new = [
        network.up["64"].conv.parametrizations.weight.original
        for network in (far.learners.players.generator, far.learners.ema.model)
    ]
    assert torch.equal(new[0][3:], new[1][3:])  # but for the rows that enlarge
    smaller, z = from_pretrained(small).train(), torch.randn(32, 16)
    with torch.no_grad():
        before, after = smaller(z).full, trainer.learners.ema.model.train()(z).full
    assert torch.corrcoef(torch.stack([before.flatten(), downscale(after, 2).flatten()]))[0, 1] > 0.8


@pytest.mark.parametrize("changes", [{"size": "256"}, {"size": "64", "z_dim": 8}])
def test_a_smaller_model_is_not_enlarged_where_its_pictures_would_not_last(start, changes):
    _, line = start(**changes)
    assert "the generator keeps" in line and "enlarging" not in line


UP_32 = "up.32.conv1.parametrizations.weight.original"


def test_a_layer_is_taken_whole_or_not_at_all(tmp_path):
    config = ModelConfig(32, 32, z_dim=16, ngf=4)
    torch.manual_seed(0)
    theirs, mine = Generator(config).state_dict(), Generator(config)
    theirs["first.norm.running_mean"] = torch.full_like(theirs["first.norm.running_mean"], 7)
    theirs["up.8.norm1.running_var"] = torch.ones(3)
    del theirs["to_full.parametrizations.weight.0._u"]
    save_file(theirs, tmp_path / "model.safetensors")
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    fit = fill(mine, tmp_path / "model.safetensors")
    assert fit.new == ["up.8.norm1", "to_full"]
    assert (mine.first.norm.running_mean == 7).all()
    unchanged = [name for name in before if name.startswith(("up.8.norm1.", "to_full."))]
    assert len(unchanged) > 4
    assert all(torch.equal(before[name], mine.state_dict()[name]) for name in unchanged)


def test_widths_that_fit_nowhere_are_refused_with_those_that_do(start):
    with pytest.raises(
        UserError, match="none of its layers fit .it has --ngf 4 --z-dim 16, this run --ngf 5 --z-dim 9"
    ):
        start(ngf=5, z_dim=9)


def test_frozen_blocks_stay_and_the_others_learn(start):
    trainer, _ = start(freeze_d=2)
    before = {name: p.detach().clone() for name, p in trainer.learners.players.discriminator.named_parameters()}
    trainer.train_on(next(trainer.feed.batches(0)))
    moved = {n for n, p in trainer.learners.players.discriminator.named_parameters() if not torch.equal(before[n], p)}
    still = {name for name in before if name.startswith(("stem.", "small_stem.", "down.16.", "small_down.8."))}
    assert len(still) > 5 and not still & moved
    assert any(name.startswith("down.8.") for name in moved) and any(name.startswith("head.") for name in moved)


def test_blocks_are_counted_from_the_picture_inward():
    discriminator = Discriminator(ModelConfig(64, 64, z_dim=16, ngf=4), 4)
    for count, open_parts in ((1, 4), (2, 3)):
        freeze_blocks(discriminator, count)
        frozen = [not any(p.requires_grad for p in block.parameters()) for block in discriminator.blocks()]
        assert frozen == [True] * count + [False] * (open_parts - 1)
    with pytest.raises(UserError, match="--freeze-d 4: at most 3"):
        freeze_blocks(discriminator, 4)
    projected = ProjectedDiscriminator(ModelConfig(64, 64, z_dim=16, ngf=4))
    freeze_blocks(projected, 2)
    learning = {name for name, p in projected.named_parameters() if p.requires_grad}
    assert not {name for name in learning if name.startswith(("pixels.0.", "pixels.2.", "heads.0.0.", "heads.0.1."))}
    assert {name.partition(".param")[0] for name in learning} >= {"pixels.4", "pixels.8", "heads.2.3"}
    with pytest.raises(UserError, match="no blocks"):
        freeze_blocks(torch.nn.Linear(1, 1), 1)


@pytest.mark.parametrize("z_dim", [16, 8])
def test_pictures_have_their_places_where_the_base_would_have_them(settings, tmp_path, monkeypatch, z_dim):
    monkeypatch.setattr(objectives, "KEPT", 12)
    few = {**settings, "recipe": "projected", "max_steps": 2}
    base = train(TrainConfig(**few, output_dir=str(tmp_path / "base")))
    few.update(z_dim=z_dim, flip=False, init_from=str(base))
    run = train(TrainConfig(**few, output_dir=str(tmp_path / "run")))
    theirs, ours = (F.normalize(from_pretrained(folder).anchor_axes, dim=0) for folder in (base, run))
    same = ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-5
    assert same == (z_dim == 16)


def test_each_network_has_its_learning_rate(start):
    trainer, _ = start(g_learning_rate=1e-3)
    players = trainer.learners.players
    rates = [optimizer.param_groups[0]["lr"] for optimizer in (players.g_optimizer, players.d_optimizer)]
    assert rates == [1e-3, 2e-4]


def test_a_model_on_the_hub_gives_its_settings_and_its_name(shared_hub, person, base, settings, place, tmp_path):
    answer = person.give("fastgan", "push", base, "tester/base")
    assert answer.code == 0, answer.err
    data = ["--dataset", settings["dataset"], "--cache-dir", settings["cache_dir"]]
    run = tmp_path / "run"
    flags = ["--max-steps", "1", "--eval-images", "0", "--output-dir", run, "--freeze-d", "1"]
    answer = person.give("train.py", *data, *flags, "--init-from", "tester/base@main", "--push-to-hub", "tester/tuned")
    assert answer.code == 0, answer.err
    commit = shared_hub.repo("tester/base").resolve("main").oid
    line = only_line(answer.err, "Starting from ")
    assert line.startswith(f"Starting from tester/base@{commit[:10]}: the generator keeps all 18 layers")
    saved = json.loads((run / "train_config.json").read_text())
    assert {name: saved[name] for name in ("size", *WIDTHS)} == {"size": "32", **WIDTHS}
    card = ModelCard(shared_hub.repo_files("tester/tuned")["README.md"].decode())
    assert card.data.base_model == "tester/base"
    assert f"fine-tuned from [tester/base](https://huggingface.co/tester/base) at commit `{commit}`" in card.text
    # Going on needs the base no more, and does not forget it.
    shared_hub.fail("tester/base", 503, times=None)
    answer = person.give("train.py", "--resume", run, "--max-steps", "2")
    shared_hub.heal()
    assert answer.code == 0, answer.err
    assert json.loads((run / "run.json").read_text())["base"] == {"model": "tester/base", "revision": commit}


def test_a_generator_keeps_its_edge_and_its_end_whatever_the_recipe(tmp_path):
    output = {"edge": "replicate", "output_activation": "tanh"}
    save_model(Generator(ModelConfig(32, 32, z_dim=16, ngf=4, **output)), tmp_path)
    flags = ["--dataset", "any", "--recipe", "paper", "--init-from", str(tmp_path)]
    config, _, _ = resolve(flags)
    assert {name: getattr(config, name) for name in output} == output
    config, _, _ = resolve([*flags, "--edge", "zeros"])
    assert (config.edge, config.output_activation) == ("zeros", "tanh")


def test_what_is_no_model_is_refused_in_a_sentence(shared_hub, person, settings, tmp_path):
    train_it = ["train.py", "--dataset", settings["dataset"], "--output-dir", tmp_path / "run", "--init-from"]
    assert "no such model" in only_line(person.give(*train_it, "tester/absent").err)
    assert "no such file" in only_line(person.give(*train_it, tmp_path).err)
    assert "neither a folder here nor a Hub id" in only_line(person.give(*train_it, "no id").err)


def test_settings_of_a_stranger_are_not_taken_over_unchecked(base, tmp_path):
    shutil.copytree(base, tmp_path / "theirs")
    saved = json.loads((base / "train_config.json").read_text())
    for changes, taken in (
        ({"ndf": 8}, {"recipe": "paper", "ndf": 8}),
        ({"ndf": 10**9}, {}),
        ({"recipe": "evil"}, {}),
    ):
        (tmp_path / "theirs" / "train_config.json").write_text(json.dumps({**saved, **changes}))
        assert open_base(str(tmp_path / "theirs")).settings == taken
