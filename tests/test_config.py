import dataclasses
import json

import pytest

from fastgan.cli import resolve
from fastgan.config import GROUPS, ModelConfig, TrainConfig, parse_every, parse_size
from fastgan.errors import UserError
from fastgan.files import read_json
from fastgan.hub import save_model
from fastgan.models import Generator


@pytest.mark.parametrize(("text", "size"), [("256", (256, 256)), ("256x384", (384, 256)), ("1024X512", (512, 1024))])
def test_sizes_are_read_as_width_by_height(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["100", "16", "4096", "256x300", "64x512", "0", "-64", "big", "64x64x64", ""])
def test_sizes_that_cannot_be_drawn_are_refused_in_a_sentence(text):
    with pytest.raises(UserError, match="size"):
        ModelConfig(*parse_size(text))


def test_a_wide_picture_starts_from_a_wide_grid():
    assert ModelConfig(256, 384).grid == (4, 6)
    assert ModelConfig(384, 256).size_at(64) == (96, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"ngf": 10**9},
        {"ngf": 0},
        {"z_dim": 10**9},
        {"channels": 2},
        {"height": 10**6},
        {"ngf": 64.0},
        {"ngf": True},
        {"output_activation": "relu"},
        {"constant": 1},
        {"edge": "circular"},
        {"anchors": 10**9, "anchor_dim": 8, "anchor_views": 9},
        {"anchors": 8, "anchor_views": 9},
        {"anchors": 8, "anchor_dim": 8},
        {"anchors": 8, "anchor_dim": 257, "anchor_views": 9},
        {"anchors": 8, "anchor_dim": 8, "anchor_views": 9, "spread": 2},
        {"spread": "0.6"},
        {"spread": True},
        {"hidden": 1},
        {"library": "diffusers"},
        {"format_version": 99},
    ],
)
def test_a_strangers_model_config_is_checked_before_anything_is_built(change):
    with pytest.raises(UserError):
        ModelConfig.from_dict({**ModelConfig().to_dict(), **change})


def test_a_model_config_with_a_missing_field_is_refused():
    values = ModelConfig().to_dict()
    del values["ngf"]
    with pytest.raises(UserError, match="ngf"):
        ModelConfig.from_dict(values)


def test_a_model_config_from_before_there_was_a_constant_another_edge_or_anchors_has_none():
    values = ModelConfig().to_dict()
    for name in ("constant", "edge", "anchors", "anchor_dim", "anchor_views", "spread"):
        del values[name]
    old = ModelConfig.from_dict(values)
    assert old.constant is False and old.edge == "zeros" and old.anchors == 0


@pytest.mark.parametrize(
    ("recipe", "size", "output"),
    [
        ("projected", "256", ("replicate", "tanh")),
        ("paper", "256", ("zeros", "none")),
        ("paper", "1024", ("zeros", "tanh")),
    ],
)
def test_the_recipe_decides_how_pictures_end(recipe, size, output):
    model = TrainConfig(dataset="user/pokemon", recipe=recipe, size=size).model
    assert (model.edge, model.output_activation) == output


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"size": "512"}, [128, 256, 512]),
        ({"size": "384x256"}, [128, 256]),
        ({"size": "64"}, [64]),
        ({"size": "256", "grow_from": 0}, [256]),
        ({"size": "256", "recipe": "paper"}, [256]),
        ({"size": "256", "init_from": "user/model"}, [256]),
        ({"size": "1024", "grow_from": 512, "recipe": "paper"}, [512, 1024]),
    ],
)
def test_a_run_trains_at_every_size_from_the_first(changes, levels):
    config = TrainConfig(dataset="user/pokemon", **changes)
    assert config.levels == levels
    for level in levels:
        part = config.at_level(level).model
        assert part.level == level
        assert dataclasses.replace(part, height=config.model.height, width=config.model.width) == config.model


def test_folders_may_be_paths(tmp_path):
    config = TrainConfig(dataset=tmp_path, output_dir=tmp_path / "run", recipe="paper")
    assert config == TrainConfig(dataset=str(tmp_path), output_dir=str(tmp_path / "run"), recipe="paper")


def test_configs_survive_json():
    model = ModelConfig(512, 768, 4, 100, 32, "tanh")
    assert ModelConfig.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    config = TrainConfig(dataset="user/pokemon", size="64x96", max_minutes=5, flip=False)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": ""}, "--dataset"),
        ({"batch_size": 1}, "--batch-size"),
        ({"accumulate": 3}, "--accumulate"),
        ({"accumulate": 16}, "--accumulate"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"duration_kimg": 0}, "--duration-kimg"),
        ({"grow_from": 48}, "--grow-from"),
        ({"grow_from": 16}, "--grow-from"),
        ({"max_minutes": -1}, "--max-minutes"),
        ({"augment": "rotate"}, "--augment"),
        ({"sample_every": "5"}, "--sample-every"),
        ({"recipe": "best"}, "--recipe"),
        ({"fit": "squeeze"}, "--fit"),
        ({"size": "100"}, "size"),
        ({"channels": 2}, "--channels"),
        ({"seed": -1}, "--seed"),
        ({"eval_images": 1}, "--eval-images"),
    ],
)
def test_a_bad_setting_is_refused_by_the_name_of_its_flag(change, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**{"dataset": "user/pokemon", **change})


@pytest.mark.parametrize("values", [{"batch": 8}, {"batch_size": "8"}, {"flip": 1}, {"seed": True}, [1]])
def test_unknown_settings_and_wrong_types_in_a_file_are_refused(values):
    if isinstance(values, dict):
        values["dataset"] = "user/pokemon"
    with pytest.raises(UserError, match=r"run\.json"):
        TrainConfig.from_dict(values, "run.json")


def test_intervals_are_read():
    assert parse_every("10min") == (10, "min")
    assert parse_every("0.5kimg") == (0.5, "kimg")
    assert parse_every("never")[0] == float("inf")


def test_every_setting_says_what_it_is():
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"] and field.metadata["group"] in GROUPS


def test_files_that_are_not_json_are_named(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(UserError, match=name):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"g_learning_rate": -1.0}, "--g-learning-rate: expected a number from 1e-12 to 1.0, got -1.0"),
        ({"d_learning_rate": float("nan")}, "--d-learning-rate: expected"),
        ({"freeze_d": -1}, "--freeze-d: expected a number from 0 to 1000"),
        ({"seed": 10**20}, "--seed: expected a number from 0 to 2147483647, got 100000000000000000000"),
        ({"ngf": 0}, "--ngf: expected"),
        ({"size": "100"}, "--size 100x100: "),
        ({"size": "32768"}, "--size 32768x32768: "),
    ],
)
def test_a_setting_out_of_bounds_is_named_as_it_is_typed(changes, says):
    with pytest.raises(UserError) as refusal:
        TrainConfig(dataset="user/pokemon", **changes)
    assert str(refusal.value).startswith(says) or str(refusal.value).endswith(says)


def test_pictures_on_this_disk_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    assert TrainConfig(dataset="pictures").dataset == str(tmp_path / "pictures")
    assert TrainConfig(dataset="pictures/*.parquet").dataset == str(tmp_path / "pictures" / "*.parquet")
    assert TrainConfig(dataset="user/pictures").dataset == "user/pictures"


def test_json_that_is_nested_too_deeply_or_counts_too_high_is_refused(tmp_path):
    for text in ("[" * 100_000, "9" * 5000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="not readable as JSON"):
            read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--freeze-d", "2"], "--freeze-d 2: keeps what a model has learned; give --init-from MODEL too"),
        (["--hub-public"], "give --push-to-hub too"),
        (["--hub-strategy", "every_save"], "give --push-to-hub too"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(flags, says):
    with pytest.raises(UserError, match=says):
        resolve(["--dataset", "user/pokemon", *flags])


def test_a_run_that_starts_from_a_model_has_its_settings_where_none_are_given(tmp_path):
    save_model(Generator(ModelConfig(64, 32, z_dim=16, ngf=4)), tmp_path / "base")
    base = str(tmp_path / "base")
    config = TrainConfig.starting_from(base, dataset="user/pokemon", z_dim=8)
    assert config == resolve(["--dataset", "user/pokemon", "--init-from", base, "--z-dim", "8"])[0]
    assert (config.size, config.ngf, config.z_dim, config.init_from) == ("32x64", 4, 8, base)
    with pytest.raises(UserError, match="--grow-from: .* leave it out"):
        resolve(["--dataset", "user/pokemon", "--init-from", base, "--grow-from", "32"])


@pytest.mark.parametrize("dataset", ["a" * 5000, "~nobody.of.this.name/pictures", "nul\0"])
def test_a_name_that_no_file_could_have_is_taken_for_one_of_the_hub(dataset):
    assert TrainConfig(dataset=dataset).dataset == dataset


def test_values_of_a_wrong_kind_are_refused_by_the_flag_and_a_size_may_be_a_number():
    assert TrainConfig(dataset="x", size=128).size == "128"
    assert TrainConfig.from_dict({"dataset": "x", "size": 128}) == TrainConfig(dataset="x", size="128")
    wrong = {"batch_size": "8", "max_steps": 1.5, "learning_rate": True, "seed": None, "fit": 3}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: expected"):
            TrainConfig(dataset="x", **{name: value})
