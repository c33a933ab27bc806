"""Models for many visitors, without a browser: who may open what, how often it is read, and how much is kept."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from huggingface_hub import HfApi

from fastgan.app.common import read_address
from fastgan.app.keys import read_keys
from fastgan.app.models import ModelCache, parse_model
from fastgan.config import ModelConfig
from fastgan.errors import UserError
from fastgan.hub import from_pretrained, weight_bytes
from fastgan.models import Generator
from tests.app_server import make_model, push
from tests.commands import PATIENCE, ROOT, run_python


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "two", "three"):
        make_model(tmp_path / name, size=32, ngf=4)
    return {name: str(tmp_path / name) for name in ("one", "two", "three")}


class Counting:
    """Loads as usual, slowly, and remembers what."""

    def __init__(self):
        self.loaded = []

    def __call__(self, model, **options):
        self.loaded.append(os.path.basename(model))
        time.sleep(0.2)
        return from_pretrained(model, **options)


def test_a_model_is_loaded_once_however_many_ask(folders):
    load = Counting()
    cache = ModelCache(load, list(folders.values()))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get(folders["one"]), range(8)))
    assert load.loaded == ["one"]
    assert len({id(one.generator) for one in found}) == 1


def test_the_least_recently_used_model_goes_when_there_is_no_room(folders):
    load = Counting()
    room = 2 * weight_bytes(from_pretrained(folders["one"]))
    cache = ModelCache(load, list(folders.values()), max_bytes=room)
    for name in ("one", "two", "one", "three", "one", "two"):
        cache.get(folders[name])
    assert load.loaded == ["one", "two", "three", "two"]


def test_a_model_that_could_not_be_loaded_is_tried_again(folders):
    attempts = []

    def load(model, **options):
        attempts.append(model)
        if len(attempts) == 1:
            raise UserError("the disk was asleep")
        return from_pretrained(model, **options)

    cache = ModelCache(load, list(folders.values()))
    with pytest.raises(UserError, match="asleep"):
        cache.get(folders["one"])
    assert cache.get(folders["one"]).name == "one"


def test_new_weights_in_a_folder_are_seen(folders):
    cache = ModelCache(given=[folders["one"]])
    before = cache.get(folders["one"]).generator
    make_model(folder := Path(folders["one"]), size=32, ngf=4, seed=1)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert cache.get(folders["one"]).generator is not before


def test_a_folder_opens_only_if_it_was_given_or_folders_are_allowed(folders):
    cache = ModelCache(given=[folders["one"]])
    assert cache.get(folders["one"]).name == "one"
    with pytest.raises(UserError, match="is no Hub id"):
        cache.get(folders["two"])
    assert ModelCache(allow_local=True).get(folders["two"]).name == "two"


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "../../secrets",
        "user/..",
        "user/model/more",
        "user/model@../..",
        "user",
        "user/model@",
        "https://example.com/model",
        "user/mo del",
        "user/" + "a" * 200,
        "a\nb/c",
        "user/model@rev\n",
        "",
    ],
)
def test_what_is_no_id_is_refused_before_anything_is_asked(text):
    with pytest.raises(UserError):
        parse_model(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user/model", ("user/model", None)),
        ("user/model@main", ("user/model", "main")),
        ("user/model@refs/pr/1", ("user/model", "refs/pr/1")),
    ],
)
def test_ids_and_revisions_are_read(text, parts):
    assert parse_model(text) == parts


def test_what_is_wrong_is_said_without_saying_where_the_server_keeps_it(tmp_path):
    folder = tmp_path / "ann lee" / "faces"
    make_model(folder, size=32, ngf=4)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"^faces: model\.safetensors: not a whole safetensors file") as refusal:
        ModelCache(given=[str(folder)]).get(str(folder))
    assert "lee" not in str(refusal.value)


def test_models_beyond_what_the_page_can_bear_are_refused_before_their_weights(tmp_path):
    make_model(tmp_path / "huge", size=32, ngf=4)
    config = json.loads((tmp_path / "huge" / "config.json").read_text())
    (tmp_path / "huge" / "config.json").write_text(json.dumps(config | {"ngf": 512, "height": 2048, "width": 2048}))
    cache = ModelCache(load=lambda *_, **__: pytest.fail("was loaded"), allow_local=True)
    with pytest.raises(UserError, match="this page opens models up to"):
        cache.get(str(tmp_path / "huge"))


def test_a_slow_model_keeps_nobody_from_another(folders):
    asleep = threading.Event()

    def load(model, **options):
        if model.endswith("one"):
            asleep.wait(20)
        return from_pretrained(model, **options)

    cache = ModelCache(load, list(folders.values()))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.get, folders["one"])
        assert cache.get(folders["two"]).name == "two"
        assert not slow.done()
        asleep.set()
        assert slow.result().name == "one"


# ---------------------------------------------------------------------- on the Hub, in a process that knows no other

ASK = """
import json, sys
from fastgan.app.models import ModelCache
from fastgan.errors import UserError

cache, answers = ModelCache(given=json.loads(sys.argv[2])), []
for model, token in json.loads(sys.argv[1]):
    try:
        answers.append(cache.get(model, token).name)
    except UserError as error:
        answers.append(f"refused: {error}")
print(json.dumps(answers))
"""


def ask(hub, tmp_path, *questions, given=(), token=""):
    environment = hub.env(tmp_path / "cache", token=token)
    return json.loads(run_python(ASK, environment, tmp_path, json.dumps(questions), json.dumps(given)))


TRIM = """
import sys
from huggingface_hub import scan_cache_dir
from fastgan.app.models import ModelCache

cache = ModelCache(given=[sys.argv[1]], max_bytes=1)
for model in sys.argv[1:]:
    cache.get(model)
print(*sorted(repo.repo_id for repo in scan_cache_dir().repos))
"""


def test_a_space_keeps_on_its_disk_what_it_was_made_for_and_what_is_in_memory(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    given, one, two = (push(hub, tmp_path / "model", name) for name in ("given", "trimmed-one", "trimmed-two"))
    on_a_space = hub.env(tmp_path / "cache") | {"SPACE_ID": "user/demo"}
    assert run_python(TRIM, on_a_space, tmp_path, given, one, two).split() == sorted([given, two])
    assert len(run_python(TRIM, hub.env(tmp_path / "other"), tmp_path, given, one, two).split()) == 3


def answers_to_strangers(hub, tmp_path, repo):
    """What they are told before its owner opens a model, after that, and with a login of their own."""
    before, mine, after, other = ask(
        hub, tmp_path, (repo, None), (repo, hub.token), (repo, None), (repo, "hf_read_other")
    )
    assert mine == repo
    return before, after, other


def test_a_private_model_opens_for_its_owner_and_for_nobody_else_even_once_it_is_in_memory(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo = push(hub, tmp_path / "model", "secret", private=True)
    for answer in answers_to_strangers(hub, tmp_path, repo):
        assert answer == f"refused: {repo}: no such model on the Hub, or it is private"


def test_a_repository_that_announces_too_much_is_refused_without_a_download(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo = push(hub, tmp_path / "model", "vast")
    hub.announce(repo, "model.safetensors", 100 * 10**9)
    [answer] = ask(hub, tmp_path, (repo, None))
    assert answer.startswith("refused: ") and "100,000,000,000 bytes" in answer
    assert not hub.seen(r"GET .*model\.safetensors")


def test_what_is_not_ours_is_refused_in_a_sentence_without_a_path(hub, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["BertModel"]}')
    repo = push(hub, tmp_path / "model", "bert")
    other, missing, revision = ask(
        hub, tmp_path, (repo, None), ("tester/nothing", None), (f"{repo}@no-such-branch", None)
    )
    assert "not a fastgan model" in other
    assert "no such model" in missing
    assert "no such branch" in revision
    assert str(tmp_path) not in other + missing + revision


def test_a_hub_that_can_not_be_reached_is_said(tmp_path, hub):
    hub.fail("/api/models/", 503, times=None)
    [answer] = ask(hub, tmp_path, ("tester/model", None))
    assert answer.startswith("refused: tester/model: the Hub")


def test_a_gated_model_opens_for_whoever_has_access_and_for_nobody_else(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo = push(hub, tmp_path / "model", "gated")
    HfApi(hub.endpoint, token=hub.token).update_repo_settings(repo, gated="auto")
    for answer in answers_to_strangers(hub, tmp_path, repo):
        assert answer.startswith(f"refused: {repo}: gated; sign in here")


def test_a_config_that_announces_too_much_is_not_fetched(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo = push(hub, tmp_path / "model", "talkative")
    hub.announce(repo, "config.json", 60 * 10**6)
    [answer] = ask(hub, tmp_path, (repo, None))
    assert answer.startswith("refused: ") and "announces 60,000,000 bytes of config.json" in answer


def test_what_the_page_was_started_with_opens_for_everyone_and_so_do_links_to_it(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo, hidden = (push(hub, tmp_path / "model", name, private=True) for name in ("shown", "hidden"))
    api = HfApi(hub.endpoint, token=hub.token)
    commit, before = (made.commit_id for made in api.list_repo_commits(repo)[:2])
    questions = [
        (repo, None),
        (repo, "hf_read_other"),
        (f"{repo}@{commit}", None),
        (f"{repo}@main", None),
        (hidden, None),
        (f"{repo}@{before}", None),
    ]
    *opened, branch, other, older = ask(hub, tmp_path, *questions, given=[repo], token=hub.token)
    assert opened == [repo] * 3
    for answer in (branch, other, older):
        assert answer.endswith("no such model on the Hub, or it is private")


ASK_TWICE = """
import sys
from fastgan.app import models

models.RECHECK = 0
cache, [repo] = models.ModelCache(), sys.argv[1:]
found = cache.get(repo)
print("loaded", flush=True)
sys.stdin.readline()
assert cache.get(repo).generator is found.generator
try:
    cache.path(found, "README.md", 1000)
except models.UserError as error:
    print(error)
"""


def test_a_hub_that_is_not_well_takes_no_model_away_and_tells_no_lies(hub, tmp_path):
    make_model(tmp_path / "model", size=32, ngf=4)
    repo = push(hub, tmp_path / "model", "steady")
    environment = hub.env(tmp_path / "cache", token="") | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ASK_TWICE, repo], env=environment, **pipes) as process:
        assert process.stdout.readline() == "loaded\n"
        hub.fail("/api/models/", 503, times=None)
        said = process.communicate("\n", timeout=PATIENCE)[0]
    hub.heal()
    assert process.returncode == 0
    assert said == f"{repo}: the Hub can't be asked for README.md just now; try again in a minute\n"


def test_a_loader_of_ones_own_knows_its_models():
    generator = Generator(ModelConfig(32, 32, z_dim=8, ngf=2)).eval()
    asked = []

    def load(model, **options):
        asked.append((model, options))
        return generator

    found = ModelCache(load).get("tiny@v2")
    assert (found.generator, found.name) == (generator, "tiny")
    assert asked == [("tiny", {"revision": "v2", "token": None})]


def test_what_another_loader_gave_has_no_files_for_visitors(folders):
    models = ModelCache(lambda model, **_: from_pretrained(folders["one"]))
    found = models.get(folders["two"] + "/.")
    assert models.path(found, "config.json", 10**6) is None


def test_a_link_takes_over_no_number_that_the_page_can_not_hold():
    box = gr.Number(0, precision=0, minimum=0)
    assert read_address({"n": box}, {"n": "17"}) == {"n": 17}
    for text in ("9" * 23, "-5"):
        assert read_address({"n": box}, {"n": text}) == {}


def test_keys_are_counted_one_by_one_and_truncation_is_a_number():
    generator = Generator(ModelConfig(32, 32, z_dim=8, ngf=2))
    assert len(read_keys(generator, "0-3,7-8,9,11", 1, "Content", 8).z) == 8
    for text, psi in (("0-7,0-6,0-5,0", 1), ("0-3,0-3,5", 1), ("1", math.nan)):
        with pytest.raises(UserError, match="at most 8|from 0 to 2"):
            read_keys(generator, text, psi, "Content", 8)
