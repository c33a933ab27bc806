import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

from fastgan import TrainConfig, UserError, publish
from fastgan.cards import render_model_card
from fastgan.checkpoints import best_of_run, checkpoints_in
from fastgan.files import write_json
from fastgan.hub import weights_hash
from fastgan.publish import _asked_wait, _plainly, patiently, repository_files
from fastgan.trainer import train
from tests.commands import PATIENCE, only_line, run_python, wait_for

PUSHED = {
    ".gitattributes",
    "README.md",
    "config.json",
    "interpolation.mp4",
    "model.safetensors",
    "samples.png",
    "style_mix.png",
    "training/config.json",
    "training/discriminator.safetensors",
    "training/features.safetensors",
    "training/generator.safetensors",
    "training/log.jsonl",
}


SETTINGS = {"size": "64", "ngf": 2, "z_dim": 8, "batch_size": 8, "eval_images": 8, "log_every": "0.008kimg"}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pictures):
    """A run of two steps at 64 pixels, where there are gates."""
    place = tmp_path_factory.mktemp("runs")
    settings = {"dataset": pictures, "cache_dir": str(place / "cache"), "output_dir": str(place / "run")}
    return train(TrainConfig(max_steps=2, **SETTINGS, **settings))


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def hub(shared_hub):
    yield shared_hub
    shared_hub.heal()


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def repo(request, hub):
    """A repository that no other test uses, and that is not there yet."""
    return f"{hub.user}/{request.node.name[5:60]}"


def commits(api, repo, revision=None):
    return [commit.title for commit in api.list_repo_commits(repo, revision=revision)]


@pytest.fixture(scope="session")
def pushed(trained, shared_hub, person, tmp_path_factory):
    """A run that was pushed to tester/faces, and what the command said."""
    folder = tmp_path_factory.mktemp("pushed") / "run"
    shutil.copytree(trained, folder)
    answer = person.give("fastgan", "push", folder, "faces", "--license", "mit")
    assert answer.code == 0, answer.err
    return folder, answer


def test_a_push_is_one_commit_of_the_whole_folder(hub, api, pushed):
    run, answer = pushed
    assert f"Pushed {run} to {hub.endpoint}/tester/faces (private): 11 files" in answer.out
    assert answer.out.endswith("Next: fastgan app tester/faces\n")
    files = hub.repo_files("tester/faces")
    assert set(files) == PUSHED
    assert commits(api, "tester/faces") == ["FastGAN generator after 0.02 kimg", "initial commit"]
    assert api.repo_info("tester/faces").private
    checkpoint = checkpoints_in(run / "checkpoints")[-1]
    for name, path in (
        ("config.json", run / "config.json"),
        ("model.safetensors", run / "model.safetensors"),
        ("training/generator.safetensors", checkpoint / "generator.safetensors"),
        ("training/discriminator.safetensors", checkpoint / "discriminator.safetensors"),
    ):
        assert files[name] == path.read_bytes()
    assert files["README.md"] == (run / "README.md").read_bytes()


def test_nothing_of_this_machine_is_on_the_hub(hub, pushed, pictures, trained):
    files = hub.repo_files("tester/faces")
    home = os.path.dirname(pictures)
    secrets = [home, str(trained.parent), str(Path.home()), "home-of-somebody", hub.token, hub.user]
    for name, content in files.items():
        content = content.replace(b"tester/faces", b"")
        assert not [secret for secret in secrets if secret.encode() in content], name
    settings = json.loads(files["training/config.json"])
    assert settings["dataset"] == "faces"
    assert not {"output_dir", "cache_dir", "push_to_hub"} & set(settings)
    lines = [json.loads(line) for line in files["training/log.jsonl"].decode().splitlines()]
    assert [line["images"] for line in lines if "loss/d" in line] == [8, 16]
    assert all(isinstance(value, int | float) for line in lines for value in line.values())
    assert {name for name in files if name.endswith((".png", ".webp", ".jpg"))} == {"samples.png", "style_mix.png"}


def test_the_card_says_what_was_measured_in_metadata_that_the_hub_takes(hub, pushed):
    card = ModelCard(hub.repo_files("tester/faces")["README.md"].decode())
    data = card.data
    assert (data.library_name, data.license) == ("fastgan", "mit")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.get("thumbnail") == f"{hub.endpoint}/tester/faces/resolve/main/samples.png"
    line = [json.loads(line) for line in (pushed[0] / "log.jsonl").read_text().splitlines()][-1]
    kinds = {figure.metric_type: figure for figure in data.eval_results}
    assert list(kinds) == ["fid", "kid", "precision", "recall", "coverage", "near_share", "distance_ratio"]
    kid, result = f"{line['kid']:.4f} ± {line['kid_std']:.4f}", kinds["kid"]
    assert result.metric_value == line["kid"]
    network = "efficientnet-lite1, antialiased bilinear to 240x240"
    assert result.metric_name == f"KID ({network} features, 8 drawn (seeds 0-7), 26 real)"
    assert "26 pictures from a folder named `faces`, which is not on the Hub" in card.text
    assert f"| KID | {kid} | 8 drawn (seeds 0-7), 26 real | {network} |" in card.text
    assert hub.seen("POST /api/validate-yaml")


def test_a_pushed_model_is_evaluated_and_what_taught_it_is_marked(person, pushed, pictures, tmp_path):
    flags = ["--dataset", pictures, "--cache-dir", tmp_path, "--images", "6", "--network", "efficientnet-lite0"]
    answer = person.give("fastgan", "evaluate", "tester/faces", *flags)
    assert answer.code == 0, answer.err
    assert "tester/faces: 6 drawn pictures (seeds 0-5) against 26 real ones of faces, 64x64" in answer.out
    assert "efficientnet-lite0 *" in answer.out and "Wrote" not in answer.out


def test_the_usage_in_the_card_runs_as_printed(hub, pushed, tmp_path):
    card = hub.repo_files("tester/faces")["README.md"].decode()
    [usage] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(usage.splitlines()) <= 10
    (tmp_path / "elsewhere").mkdir()
    check = "\nprint(len(pictures), pictures[0].tobytes() == generator.sample([0])[0].tobytes(), mixed.size)"
    printed = run_python(usage + check, hub.env(tmp_path / "empty cache"), tmp_path / "elsewhere")
    assert printed == "16 True (64, 64)\n"
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["mixed.png", "seed0.png"]


def test_a_generator_pushes_itself_with_a_card(hub, repo, tmp_path):
    push = """
import sys, torch, fastgan
torch.manual_seed(0)
generator = fastgan.Generator(fastgan.ModelConfig(32, 32, z_dim=8, ngf=2))
print(generator.push_to_hub(sys.argv[1], license="mit"))
print(fastgan.from_pretrained(sys.argv[1]).sample([3])[0].tobytes() == generator.sample([3])[0].tobytes())
"""
    printed = run_python(push, hub.env(tmp_path / "cache"), tmp_path, repo)
    assert printed.endswith(f"{hub.endpoint}/{repo}\nTrue\n")
    assert ModelCard(hub.repo_files(repo)["README.md"].decode()).data.license == "mit"


def test_a_card_edited_by_hand_survives_the_next_push(hub, person, run, repo):
    person.give("fastgan", "push", run, repo)
    card = hub.repo_files(repo)["README.md"].decode()
    edited = card.replace(f"# {repo[7:]}\n", "# Faces of my friends\n\nThey agreed.\n").replace("0.016", "9.99")
    edited = edited.replace("library_name", "language: en\nlicense: cc-by-4.0\nlibrary_name", 1) + "\nThank you.\n"
    edited = edited.replace("- fastgan\n", "- friends\n- fastgan\n", 1)
    assert "9.99" in edited
    hub.git_push(repo, {"README.md": edited.encode()})
    answer = person.give("fastgan", "push", run, repo)
    assert answer.code == 0, answer.err
    assert "what was written there by hand was kept" in answer.out
    again = hub.repo_files(repo)["README.md"].decode()
    assert "# Faces of my friends\n\nThey agreed.\n" in again and again.endswith("\nThank you.\n")
    assert "9.99" not in again and again.count("fastgan:begin") == 1
    data = ModelCard(again).data
    assert (data.language, data.license, data.tags[:2]) == ("en", "cc-by-4.0", ["friends", "fastgan"])
    assert len(data.eval_results) == 7  # kinds of figures, each once


def test_a_hub_that_is_not_well_for_a_while_gets_the_push_all_the_same(hub, api, person, run, repo):
    hub.fail(f"POST /api/models/{repo}/commit", 503, times=2)
    hub.fail("POST /api/repos/create", 429, retry_after=1)
    started = time.monotonic()
    answer = person.give("fastgan", "push", run, repo)
    assert answer.code == 0, answer.err
    assert time.monotonic() - started > 1
    waits = [line for line in answer.err.splitlines() if "the Hub is having trouble" in line]
    assert [line.rpartition("; ")[2] for line in waits] == [f"trying again in {s} s" for s in ("1", "0.05", "0.1")]
    assert "429" in waits[0] and "503" in waits[1]
    assert len(commits(api, repo)) == 2


def test_a_connection_cut_in_the_answer_to_a_commit_does_not_commit_twice(hub, api, person, run, repo):
    hub.cut(f"POST /api/models/{repo}/commit", after=3)
    hub.cut(f"PUT /cdn/models/{repo}")
    answer = person.give("fastgan", "push", run, repo)
    assert answer.code == 0, answer.err
    assert len(commits(api, repo)) == 2
    assert set(hub.repo_files(repo)) == PUSHED


def test_a_hub_that_stays_ill_is_said_with_the_command_that_finishes_it(hub, api, person, run, repo):
    hub.fail(f"{repo}/commit/main", 500, times=None)
    answer = person.give("fastgan", "push", run, repo, "--license", "mit")
    assert answer.code == 2
    line = only_line(answer.err)
    assert "the Hub answers 500" in line and "Nothing of this push is on the Hub" in line
    assert line.endswith(f"try again with: fastgan push {run} {repo} --license mit")
    assert commits(api, repo) == ["initial commit"]
    hub.heal()
    assert person.give("fastgan", "push", run, repo).code == 0


def test_what_waiting_does_not_mend_is_said_at_once(hub, api, person, run, repo):
    for status, hint in ((403, "a token that may write there"), (409, "409 Conflict"), (413, "too large")):
        hub.fail(f"{repo}/commit/main", status)
        answer = person.give("fastgan", "push", run, repo)
        assert answer.code == 2
        assert hint in only_line(answer.err) and "trying again" not in answer.err
    assert commits(api, repo) == ["initial commit"]


def test_who_may_not_push_is_told_before_anything_is_drawn(hub, person, run, repo, tmp_path):
    answers = {
        "this token can only read": person.give("fastgan", "push", run, repo, token=hub.read_token),
        "401": person.give("fastgan", "push", run, repo, token="hf_wrong"),
        "not signed in": person.give("fastgan", "push", run, repo, token=""),
        "use a token that may write there": person.give("fastgan", "push", run, "other/faces"),
        "no Hub id": person.give("fastgan", "push", run, "no id at all"),
        "no config.json there": person.give("fastgan", "push", tmp_path, repo),
    }
    for sentence, answer in answers.items():
        assert answer.code == 2
        assert sentence in only_line(answer.err)
    assert not (run / "style_mix.png").exists()
    assert hub.storage.find("models", repo) is None


def test_a_repository_of_another_library_is_not_written_over(hub, api, person, run, repo):
    api.create_repo(repo)
    hub.git_push(repo, {"config.json": b'{"model_type": "bert"}'})
    answer = person.give("fastgan", "push", run, repo)
    assert "holds a model of another library" in only_line(answer.err)
    assert commits(api, repo) == ["By git", "initial commit"]


def test_what_is_private_stays_so_where_nothing_is_pushed_and_weights_of_others_are_left_alone(
    hub, api, person, run, repo
):
    api.create_repo(repo, private=True)
    hub.git_push(repo, {"model_index.json": b"{}", "unet/weights.safetensors": b"secret"})
    answer = person.give("fastgan", "push", run, repo, "--public")
    assert "holds a model of another library" in only_line(answer.err)
    assert api.repo_info(repo).private and commits(api, repo) == ["By git", "initial commit"]


def test_a_private_repository_opens_once_the_model_is_in_it(api, person, run, repo):
    api.create_repo(repo, private=True)
    answer = person.give("fastgan", "push", run, repo, "--public")
    assert answer.code == 0 and "(public)" in answer.out
    assert not api.repo_info(repo).private


def test_a_card_edited_in_the_folder_is_not_lost_to_the_one_on_the_hub(person, run, repo):
    person.give("fastgan", "push", run, repo)
    card = run / "README.md"
    card.write_text(card.read_text() + "\nA paragraph of mine.\n")
    answer = person.give("fastgan", "push", run, repo)
    assert f"What it said before is in {run / 'README.before.md'}" in answer.out
    assert "A paragraph of mine." in (run / "README.before.md").read_text()


def test_a_card_does_not_go_on_about_the_model_before(hub, person, run, repo):
    person.give("fastgan", "push", run, repo)
    card = hub.repo_files(repo)["README.md"].decode()
    before = card.replace("library_name", "base_model: user/dogs\ndatasets:\n- user/mine\nlibrary_name", 1)
    before = re.sub("(fastgan:begin.*)", r"\1\nFine-tuned from user/dogs.", before)
    hub.git_push(repo, {"README.md": before.encode()})
    assert person.give("fastgan", "push", run, repo).code == 0
    data = ModelCard(hub.repo_files(repo)["README.md"].decode()).data
    assert data.base_model is None and data.datasets == ["user/mine"]


def test_an_answer_that_is_no_json_is_tried_again(monkeypatch):
    monkeypatch.setattr(publish, "WAITS", (0.01,))
    answers = iter(["<html>", "{}"])
    assert patiently(lambda: json.loads(next(answers)), "user/x", lambda text: None) == {}


def test_what_the_uploading_library_throws_is_tried_again_and_told_in_a_line(monkeypatch):
    monkeypatch.setattr(publish, "WAITS", (0.01,))
    failures = iter([RuntimeError("Data processing error: CAS")])

    def call():
        for failure in failures:
            raise failure
        return "there"

    assert patiently(call, "user/x", lambda text: None) == "there"
    with pytest.raises(UserError, match="^user/x: Data processing error$"), _plainly("user/x"):
        raise RuntimeError("Data processing\nerror")


def test_the_hub_is_waited_for_as_long_as_it_asks():
    assert _asked_wait({"ratelimit": '"api";r=0;t=55'}) == 56
    assert _asked_wait({"ratelimit": '"api";r=9;t=55', "Retry-After": "7"}) == 7
    assert _asked_wait({}) == 0


def test_branch_message_visibility_and_the_best_weights_are_as_asked(hub, api, person, run, repo):
    assert best_of_run(run).images == 16
    asked = ["--public", "--revision", "second", "--message", "As asked", "--best"]
    answer = person.give("fastgan", "push", run, repo, *asked)
    assert answer.code == 0, answer.err
    assert "(public)" in answer.out
    assert commits(api, repo, revision="second") == ["As asked", "initial commit"]
    assert commits(api, repo) == ["initial commit"]
    assert not api.repo_info(repo).private
    files = hub.repo_files(repo, revision="second")
    assert files["model.safetensors"] == (run / "best" / "model.safetensors").read_bytes()
    assert set(files) == PUSHED


def test_networks_of_other_weights_go_away_and_the_card_speaks_of_none(hub, person, run, repo):
    assert person.give("fastgan", "push", run, repo).code == 0
    assert "`training/` holds the raw" in hub.repo_files(repo)["README.md"].decode()
    write_json(run / "best" / "kid.json", {"kid": 0.1, "images": 8})  # of a checkpoint that was not kept
    answer = person.give("fastgan", "push", run, repo, "--best")
    assert answer.code == 0, answer.err
    files = hub.repo_files(repo)
    assert set(files) == PUSHED - {"training/generator.safetensors", "training/discriminator.safetensors"}
    assert "holds the raw" not in files["README.md"].decode()


def test_the_card_tells_the_figures_of_the_best_weights_before_a_checkpoint_knows_them(run):
    measured = next(line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "kid" in line)
    with open(run / "log.jsonl", "a") as log:
        log.write(json.dumps({**measured, "images": 24, "kid": 0.125, "kid_std": 0.5}) + "\n")
    write_json(run / "best" / "kid.json", {"kid": 0.125, "images": 24})
    card = render_model_card(run, best=True)
    assert "0.1250 ± 0.5000" in card and "0.024" in card
    assert "0.1250" not in render_model_card(run)


def test_figures_of_other_weights_stay_where_they_are(run):
    figures = {
        "dataset": {"dataset": "faces", "kind": "folder", "split": "train"},
        "seeds": "0-7",
        "psi": 1,
        "results": [],
    }
    write_json(run / "metrics.json", figures | {"weights_sha256": weights_hash(run)})
    assert "metrics.json" in repository_files(run)
    write_json(run / "metrics.json", figures | {"weights_sha256": 64 * "0"})
    assert "metrics.json" not in repository_files(run)


def test_the_nearest_training_pictures_are_shown_where_that_is_asked_for(hub, person, run, repo):
    assert person.give("fastgan", "push", run, repo, "--nearest").code == 0
    files = hub.repo_files(repo)
    assert files["nearest.png"] == (run / "nearest.png").read_bytes()
    assert "nearest.png" in files["README.md"].decode()
    assert person.give("fastgan", "push", run, repo).code == 0
    assert "nearest.png" not in hub.repo_files(repo)
    (run / "nearest.png").unlink()
    answer = person.give("fastgan", "push", run, repo, "--nearest")
    assert answer.code == 2 and "`fastgan evaluate" in only_line(answer.err)


def test_a_strangers_settings_say_neither_what_is_read_nor_where_it_is_kept(hub, person, run, repo, tmp_path):
    assert person.give("fastgan", "push", run, repo).code == 0
    settings = json.loads(hub.repo_files(repo)["training/config.json"])
    settings |= {"dataset": str(tmp_path), "cache_dir": str(tmp_path / "kept")}
    hub.git_push(repo, {"training/config.json": json.dumps(settings).encode()})
    answer = person.give("fastgan", "evaluate", repo)
    assert answer.code == 2 and "Give --dataset" in only_line(answer.err)
    assert not (tmp_path / "kept").exists()


def test_a_model_of_somebodys_folder_is_measured_against_what_is_named(
    hub, api, person, run, repo, pictures, tmp_path
):
    assert person.give("fastgan", "push", run, repo).code == 0
    settings = json.loads(hub.repo_files(repo)["training/config.json"])
    assert settings["dataset"] == "faces"  # which may be the name of anything
    answer = person.give("fastgan", "evaluate", repo)
    assert answer.code == 2 and "Give --dataset" in only_line(answer.err)

    for name in ("theirs", "mine"):
        api.create_repo(name, repo_type="dataset")
        api.upload_folder(repo_id=f"{hub.user}/{name}", repo_type="dataset", folder_path=pictures)
    settings["dataset"] = f"{hub.user}/theirs"
    hub.git_push(repo, {"training/config.json": json.dumps(settings).encode()})
    flags = ["--network", "efficientnet-lite0", "--images", "6", "--cache-dir", tmp_path / "cache"]
    for name, its_own in (("theirs", True), ("mine", False)):
        answer = person.give("fastgan", "evaluate", repo, "--dataset", f"{hub.user}/{name}", *flags)
        assert answer.code == 0, answer.err
        assert ("\ncopies " in answer.out) == its_own


# ---------------------------------------------------------------------- beside the training


@pytest.fixture
def train_call(tmp_path, pictures, trained, repo):
    shared = ["train.py", "--dataset", pictures, "--cache-dir", trained.parent / "cache", *FLAGS]

    def call(*more: str, run: str = "new", push: bool = True) -> list:
        return [*shared, "--output-dir", tmp_path / run, *(["--push-to-hub", repo] if push else []), *more]

    return call


def test_training_pushes_on_the_way_and_at_the_end_and_says_where_it_is(hub, api, person, train_call, repo, tmp_path):
    saves = ["--hub-strategy=every_save", "--checkpoint-every=0.008kimg", "--max-steps=2"]
    answer = person.give(*train_call(*saves, "--hub-public"))
    assert answer.code == 0, answer.err
    line = only_line(answer.err, "On the Hub: ")
    assert line.startswith(f"On the Hub: {hub.endpoint}/{repo} (public), the run as it was at 0.02 kimg, commit ")
    assert line.endswith("; everything is there")
    assert set(hub.repo_files(repo)) == PUSHED
    first = commits(api, repo)[-2]
    assert first == "FastGAN generator after 0.01 kimg" and len(commits(api, repo)) >= 3
    on_the_way = hub.repo_files(repo, revision=api.list_repo_commits(repo)[-2].commit_id)
    assert set(on_the_way) == PUSHED - {"style_mix.png", "interpolation.mp4", "training/features.safetensors"}
    assert not list((tmp_path / "new").glob(".hub-*"))


def test_a_hub_that_fails_during_the_run_never_stops_it_nor_changes_it(hub, api, person, train_call, repo, tmp_path):
    hub.fail(f"POST /api/models/{repo}/commit", 500, times=3)  # as often as a push tries
    saves = ["--checkpoint-every=0.008kimg", "--max-steps=6", "--eval-images=0", "--mixed-precision=no"]
    pushed = person.give(*train_call(*saves, "--hub-strategy=every_save"))
    quiet = person.give(*train_call(*saves, run="quiet", push=False))
    assert (pushed.code, quiet.code) == (0, 0), pushed.err
    # A run that is done before the first push has failed waits for it, and says so.
    lines = [line for line in pushed.err.splitlines() if repo in line and "waiting for the push" not in line]
    assert "500" in lines[0] and lines[0].endswith("beside the training")
    assert "Training goes on; the next save tries again" in lines[1]
    assert lines[-1].startswith("On the Hub: ") and lines[-1].endswith("; everything is there")
    checkpoints = [checkpoints_in(tmp_path / run / "checkpoints")[-1] for run in ("new", "quiet")]
    ours, theirs = (load_file(path / "generator.safetensors") for path in checkpoints)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    there = hub.repo_files(repo)["training/generator.safetensors"]
    assert there == (checkpoints[0] / "generator.safetensors").read_bytes()
    assert not list((tmp_path / "new").glob(".hub-*"))


def test_a_hub_that_is_gone_at_the_end_leaves_the_command_that_finishes_it(hub, person, train_call, repo, tmp_path):
    hub.fail(f"{repo}/commit/main", 500, times=None)
    answer = person.give(*train_call("--max-steps=2"))
    assert answer.code == 2  # a job must not count as done that takes its only copy along
    command = f"fastgan push {tmp_path / 'new'} {repo}"
    line = only_line(answer.err)
    assert "the Hub answers 500" in line
    assert line.endswith(f"The run is saved. Nothing of this run is on the Hub yet. Push it with: {command}")
    hub.heal()
    assert person.give(*command.split()).code == 0
    assert set(hub.repo_files(repo)) == PUSHED


def test_what_has_begun_to_learn_its_pictures_by_heart_is_not_what_is_pushed(hub, person, train_call, repo, tmp_path):
    assert person.give(*train_call("--max-steps=2", push=False)).code == 0
    best = tmp_path / "new" / "best"
    kept = json.loads((best / "kid.json").read_text())
    (best / "kid.json").write_text(json.dumps(kept | {"copies": -1}))  # farther from copies than what comes now
    flags = ["--resume", tmp_path / "new", "--max-steps", "3", "--push-to-hub", repo]
    answer = person.give("train.py", *flags)
    assert answer.code == 0, answer.err
    assert "at 0.02 kimg, from before it began to learn its pictures by heart" in answer.err
    assert f"fastgan sample {best} --seeds" in answer.err
    assert "(private), best/ of the run as it was at 0.02 kimg, commit " in only_line(answer.err, "On the Hub: ")
    weights = hub.repo_files(repo)["model.safetensors"]
    assert weights == (best / "model.safetensors").read_bytes()
    assert weights != (tmp_path / "new" / "model.safetensors").read_bytes()


def test_a_token_that_will_not_do_is_said_before_any_picture_is_read(hub, person, train_call, tmp_path):
    answer = person.give(*train_call(), token=hub.read_token)
    assert answer.code == 2
    assert "this token can only read" in only_line(answer.err)
    hub.fail("whoami", 503, times=None)
    answer = person.give(*train_call())
    assert answer.code == 2
    assert "503" in only_line(answer.err)
    assert not (tmp_path / "new" / "log.jsonl").exists()


def test_a_dataset_that_is_not_there_makes_no_repository(api, person, train_call, repo):
    answer = person.give(*train_call(), "--dataset", "tester/nothing")
    assert answer.code == 2 and "no such dataset on the Hub" in only_line(answer.err)
    assert not api.repo_exists(repo)


def test_an_interrupted_run_says_that_it_is_not_on_the_hub(hub, api, train_call, repo, tmp_path, start):
    process = start(*map(str, train_call()[1:]), "--max-minutes", "5", **hub.env(tmp_path / "home"))
    wait_for((tmp_path / "new" / "log.jsonl").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 130
    assert f"Push it with: fastgan push {tmp_path / 'new'} {repo}" in output
    assert commits(api, repo) == ["initial commit"]
