import json
from pathlib import Path

import pytest

from fastgan import TrainConfig, UserError
from fastgan.run_folder import RunFolder, folder_of
from fastgan.trainer import Trainer, train


def test_a_start_that_is_refused_deletes_nothing(tiny, tmp_path):
    foreign = [tmp_path / "run" / "log.jsonl", tmp_path / "run" / "samples" / "0123456789.png"]
    for file in foreign:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    with pytest.raises(UserError, match="--batch-size 300"):
        Trainer(tiny(batch_size=300))
    assert [file.read_text() for file in foreign] == ["mine", "mine"]
    (tmp_path / "run" / "train_config.json").write_text("{}")  # now it is what a killed run left
    with pytest.raises(UserError, match="--batch-size 300"):
        Trainer(tiny(batch_size=300))
    log = train(tiny()) / "log.jsonl"
    assert [json.loads(line)["images"] for line in log.read_text().splitlines()] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("user/my.set", "my.set"),
        (".", "v1.0 of mine"),
        ("./sub/..", "v1.0 of mine"),
        ("*.parquet", "v1.0 of mine"),
        ("sub/**/*.parquet", "sub"),
        ("faces.zip", "faces"),
    ],
)
def test_a_run_is_called_like_its_pictures(tmp_path, monkeypatch, dataset, name):
    folder = tmp_path / "v1.0 of mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "faces.zip").write_bytes(b"")
    monkeypatch.chdir(folder)
    assert folder_of(TrainConfig(dataset=dataset)) == Path("runs", name)


def test_a_run_that_goes_on_keeps_others_out_of_its_folder(tiny):
    first = Trainer(tiny())
    try:
        with pytest.raises(UserError, match="a run is going on in it; wait for it, or choose another --output-dir"):
            Trainer(tiny(seed=1))
    finally:
        first.close()
    folder = train(tiny(seed=1))
    assert not (folder / ".lock").exists()
    train(tiny(seed=1, max_steps=5), resume=True)


def test_a_log_that_can_not_be_written_and_names_that_are_no_text_are_borne(tmp_path):
    files = RunFolder(tmp_path, resumes=False, writes=True)
    files.write_skipped([("caf\udce9\t1.png", "damaged:\nat its end")])
    assert (tmp_path / "skipped.tsv").read_text() == "caf\\udce9 1.png\tdamaged: at its end\n"
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="log.jsonl: could not be written"):
        files.record({"images": 8})
