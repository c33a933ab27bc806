import os
import shutil

import pytest
from datasets import Dataset, Image
from huggingface_hub import DatasetCard, HfApi
from PIL import Image as Picture

from fastgan.cards import render_dataset_card
from tests.commands import ROOT, only_line

EMOJI = ROOT / "examples" / "emoji_faces"


@pytest.fixture
def hub(shared_hub):
    yield shared_hub
    shared_hub.heal()


def rows_of(hub, repo, tmp_path, split="train"):
    """The rows of a pushed dataset's parquet files, with the encoded pictures."""
    files = hub.repo_files(repo, "datasets")
    paths = []
    for name, content in sorted(files.items()):
        if name.startswith(f"data/{split}-"):
            paths.append(tmp_path / name.replace("/", "_"))
            paths[-1].write_bytes(content)
    return list(Dataset.from_parquet([str(p) for p in paths]).cast_column("image", Image(decode=False)))


def test_pictures_are_there_byte_for_byte_with_the_card_and_the_licence(hub, person, tmp_path):
    answer = person.give("fastgan", "dataset", "push", EMOJI, "emoji-faces")
    assert answer.code == 0, answer.err
    assert f"Pushed 204 pictures to {hub.endpoint}/datasets/tester/emoji-faces (private)" in answer.out
    assert answer.out.endswith("Next: python train.py --dataset tester/emoji-faces\n")
    files = hub.repo_files("tester/emoji-faces", "datasets")
    assert set(files) == {".gitattributes", "LICENSE", "README.md", "data/train-00000-of-00001.parquet"}
    assert str(ROOT).encode() not in files["data/train-00000-of-00001.parquet"]
    rows = rows_of(hub, "tester/emoji-faces", tmp_path)
    assert len(rows) == 204
    for row in rows[::40]:
        assert row["image"]["bytes"] == (EMOJI / row["image"]["path"]).read_bytes()
    card = DatasetCard(files["README.md"].decode())
    assert (card.data.license, card.data.pretty_name) == ("mit", "Emoji faces")
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert "# Emoji faces" in card.text  # the folder's own card
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    assert len(api.list_repo_commits("tester/emoji-faces", repo_type="dataset")) == 2
    assert person.give("fastgan", "dataset", "push", EMOJI, "emoji-faces").code == 0


def test_splits_damaged_files_places_and_a_smaller_second_push(hub, person, tmp_path):
    folder = tmp_path / "set"
    for split, names in (("train", "abc"), ("test", "d")):
        (folder / split / "sub").mkdir(parents=True)
        for name in names:
            Picture.new("RGB", (20, 30), name_color(name)).save(folder / split / "sub" / f"{name}.png")
    (folder / "train" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    exif = Picture.Exif()
    exif[0x8825] = {1: "N"}
    Picture.new("RGBA", (40, 40), (1, 2, 3, 4)).save(folder / "train" / "e.png", exif=exif)
    (folder / "train" / "gone.png").symlink_to(folder / "nowhere.png")
    answer = person.give("fastgan", "dataset", "push", folder, "tester/set", "--license", "cc0-1.0", "--public")
    assert answer.code == 0, answer.err
    assert "train/gone.png was left out" in answer.out
    assert "Pushed 5 pictures" in answer.out and "(public)" in answer.out
    assert "train/broken.jpg was left out" in answer.out
    assert "Pictures that say where they were taken (EXIF), and are there as they are: 1" in answer.out
    card = hub.repo_files("tester/set", "datasets")["README.md"].decode()
    assert "| `train` | 4 pictures |" in card and "| `test` | 1 pictures |" in card
    assert "| sizes | from 20×30 to 40×40 |" in card and "| transparency | 1 of 5 |" in card
    assert DatasetCard(card).data.license == "cc0-1.0"

    hub.git_push("tester/set", {"README.md": card.replace("# set", "# My set").encode()}, "datasets")
    hub.git_push("tester/set", {"data/train-00001-of-00002.parquet": b"older"}, "datasets")
    shutil.rmtree(folder / "test")
    assert person.give("fastgan", "dataset", "push", folder, "tester/set").code == 0
    files = hub.repo_files("tester/set", "datasets")
    assert {name for name in files if name.startswith("data/")} == {"data/train-00000-of-00001.parquet"}
    assert b"# My set" in files["README.md"] and b"`test`" not in files["README.md"]


def name_color(name: str) -> tuple[int, int, int]:
    return (ord(name), 0, 0)


def test_what_is_there_already_and_not_from_here_is_not_written_over(hub, person, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    Picture.new("RGB", (20, 30)).save(folder / "a.png")
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("tester/novels", repo_type="dataset")
    hub.git_push("tester/novels", {"README.md": b"# Novels", "data/train.parquet": b"text"}, "datasets")
    answer = person.give("fastgan", "dataset", "push", folder, "tester/novels")
    assert answer.code == 2
    assert "holds other files, like data/train.parquet, which a push would replace" in only_line(answer.err)
    assert hub.repo_files("tester/novels", "datasets")["data/train.parquet"] == b"text"


def test_names_that_are_not_utf8_and_pictures_of_phones(hub, person, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    Picture.new("RGB", (20, 30)).save(folder / "a.png")
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xe9t\xe9.png"))
    (folder / "b.heic").write_bytes(b"heic")
    answer = person.give("fastgan", "dataset", "push", folder, "tester/old-names")
    assert answer.code == 0, answer.err
    assert "b.heic was left out: HEIC can't be read here; save it as JPEG or PNG" in answer.out
    [row] = rows_of(hub, "tester/old-names", tmp_path)
    assert row["image"]["path"] == r"\udce9t\udce9.png"


def test_what_is_no_set_of_pictures_is_refused(hub, person, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    wrong = {
        "no such folder": person.give("fastgan", "dataset", "push", tmp_path / "absent", "x"),
        "no pictures in it": person.give("fastgan", "dataset", "push", tmp_path / "empty", "x"),
        "none of 1 pictures can be read": person.give("fastgan", "dataset", "push", tmp_path / "bad", "x"),
        "can only read": person.give("fastgan", "dataset", "push", EMOJI, "x", token=hub.read_token),
    }
    for sentence, answer in wrong.items():
        assert answer.code == 2
        assert sentence in only_line(answer.err)


def test_counts_of_the_files_before_do_not_stay_in_a_card():
    before = "---\ndataset_info:\n  splits:\n  - name: train\n    num_examples: 833\nmine: kept\n---\nMine.\n"
    facts = {"splits": {"train": 2}, "sizes": "", "formats": "", "transparency": ""}
    data = DatasetCard(render_dataset_card("user/pets", facts, before)).data.to_dict()
    assert "dataset_info" not in data and data["mine"] == "kept"
