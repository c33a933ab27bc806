import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fastgan import UserError
from fastgan.cards import draw_card_pictures, render_dataset_card, render_model_card, write_card, write_run_facts
from fastgan.config import ModelConfig
from fastgan.hub import save_model
from fastgan.models import Generator
from tests.networks import anchors_at

IMPORTED = {
    "source": "someone/fastgan-shells:all_50000.pth",
    "revision": "c0ffee",
    "sha256": "ab" * 32,
    "license": "cc-by-nc-4.0",
    "layout": "original FastGAN trainer",
    "weights": "ema",
    "batch_norm_reestimated": True,
}


@pytest.fixture
def model(tmp_path):
    """The least there can be: a config and weights, at 32 pixels, where nothing can be mixed."""
    torch.manual_seed(0)
    save_model(Generator(ModelConfig(32, 32, channels=4, z_dim=8, ngf=2)).eval(), tmp_path / "shells")
    return tmp_path / "shells"


def test_a_card_tells_only_what_is_known(model):
    card = ModelCard(render_model_card(model))
    assert card.text.startswith("\n# shells\n")
    assert "32×32 pixels, RGBA with real transparency" in card.text
    assert 'fastgan.from_pretrained("user/shells")' in card.text
    sections = ("## Data", "## Training", "## Measured", "## Style mixing")
    for missing in (*sections, "style_seeds", "None", "Undefined", "anchors"):
        assert missing not in card.text
    assert card.data.eval_results is None and card.data.license is None and card.data.datasets is None


def test_a_card_tells_what_the_weights_hold_of_training_pictures(model):
    save_model(Generator.from_pretrained(model).anchored(anchors_at(torch.randn(1024, 6))), model)
    assert "1,024 anchors in `model.safetensors`: 6 numbers each" in render_model_card(model)


def test_the_card_of_an_imported_model_tells_where_it_is_from(model):
    (model / "import.json").write_text(json.dumps(IMPORTED))
    card = ModelCard(render_model_card(model, "user/shells"))
    assert card.data.license == "cc-by-nc-4.0"
    for fact in ("someone/fastgan-shells:all_50000.pth` at commit `c0ffee", "ab" * 32, "cc-by-nc-4.0", "ema"):
        assert fact in card.text
    assert "they were not trained further" in card.text
    assert ModelCard(render_model_card(model, license="mit")).data.license == "mit"


def test_the_command_draws_the_pictures_and_renews_a_card_that_is_there(model):
    path = write_card(model, "user/shells")
    assert {file.name for file in model.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "samples.png", "interpolation.mp4",
    }  # fmt: skip
    first = path.read_text(encoding="utf-8")
    path.write_text(first.replace("# shells", "# Shells\n\nFrom my beach."), encoding="utf-8")
    film = (model / "interpolation.mp4").stat().st_mtime_ns
    write_card(model, "user/shells")
    assert path.read_text(encoding="utf-8") == first.replace("# shells", "# Shells\n\nFrom my beach.")
    assert (model / "interpolation.mp4").stat().st_mtime_ns == film  # of the same weights, so not drawn again
    with pytest.raises(UserError, match=r"no config\.json"):
        write_card(model.parent)


def test_a_card_without_marks_keeps_its_text_and_gets_the_metadata(model):
    card = render_model_card(model, existing="---\nlicense: mit\n---\n# All mine\n")
    assert card.endswith("\n---\n# All mine\n")
    data = ModelCard(card).data
    assert (data.license, data.library_name) == ("mit", "fastgan")


def test_metadata_that_nobody_can_read_is_replaced_and_the_text_stays(model):
    card = render_model_card(model, existing="---\n{[\n---\n# All mine\n")
    assert card.endswith("\n---\n# All mine\n")
    assert ModelCard(card).data.library_name == "fastgan"


def test_figures_of_others_stay_beside_ours(model):
    theirs = EvalResult(
        "unconditional-image-generation", "user/set", "user/set", "fid", 12.5, metric_name="FID by hand"
    )
    data = ModelCardData(model_name="shells", eval_results=[theirs]).to_yaml()
    existing = f"---\n{data}\n---\n"
    write_run_facts(model, {"dataset": "shells", "kind": "folder", "split": "train", "pictures": 7}, "CPU", None)
    for _ in range(2):
        existing = render_model_card(model, existing=existing)
    [kept] = ModelCard(existing).data.eval_results
    assert (kept.metric_name, kept.metric_value) == ("FID by hand", 12.5)
    assert "7 pictures from a folder named `shells`" in existing


def test_the_name_of_somebodys_home_is_not_told(model):
    source = {"dataset": Path.home().name, "kind": "folder", "split": "train", "pictures": 7}
    write_run_facts(model, source, "CPU", {"model": Path.home().name, "revision": None})
    card = render_model_card(model)
    assert "a folder named `pictures`" in card
    assert "fine-tuned from another run, pictures" in card


def test_a_dataset_card_names_sizes_and_splits():
    facts = {"splits": {"train": 1200, "test": 1}, "sizes": "all 9×9", "formats": "PNG", "transparency": "none"}
    card = ModelCard(render_dataset_card("user/set", facts, license="mit"))
    assert card.data.size_categories == ["1K<n<10K"]
    assert "1201 pictures for unconditional image generation." in card.text
    assert "python train.py --dataset user/set" in card.text


def test_the_best_weights_get_pictures_of_their_own(tmp_path):
    model = tmp_path / "shells"
    for seed, folder in enumerate((model, model / "best")):
        torch.manual_seed(seed)
        # Films of 32 pixels would differ now and then: there x264 looks at bytes beyond the picture.
        save_model(Generator(ModelConfig(64, 64, z_dim=8, ngf=2)), folder)
    films = []
    for best in (False, True, True, False):
        draw_card_pictures(model, best)
        films.append((model / "interpolation.mp4").read_bytes())
    assert films[0] == films[3] != films[1] == films[2]
    (model / "interpolation.mp4").write_bytes(b"a film of my own")
    draw_card_pictures(model)
    assert (model / "interpolation.mp4").read_bytes() == b"a film of my own"


def test_a_hand_written_card_in_any_encoding_is_kept_as_far_as_it_can_be_read(model):
    (model / "README.md").write_bytes("# Ours\n\nCaf\xe9\n".encode("latin-1"))
    assert "Caf\ufffd" in write_card(model).read_text(encoding="utf-8")
