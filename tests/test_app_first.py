"""The first look, without a browser: who gets it, of what, and for how long it holds."""

import os
import re
from pathlib import Path

import pytest
from gradio.route_utils import delete_files_created_by_app

from fastgan.app import build_demo
from fastgan.app.first import COUNT, PSI, SEED, First
from fastgan.app.models import ModelCache
from fastgan.app.pictures import serve
from fastgan.app.sample import seed_pictures
from tests.app_server import make_model

PICTURE = r'<img alt="" src="data:image/webp;base64,[\w+/=]+">'


@pytest.fixture(autouse=True)
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))


@pytest.fixture
def model(tmp_path):
    make_model(folder := tmp_path / "faces", size=32, ngf=4)
    return str(folder)


def begin(model):
    found = ModelCache(given=[model]).get(model)
    first = First(model)
    first.keep(found, list(seed_pictures(found, range(SEED, SEED + COUNT), PSI)))
    return first, found


def test_whoever_asks_for_nothing_else_gets_the_first_pictures(model):
    first, _ = begin(model)
    for query in ({}, {"model": model}, {"__theme": "dark"}, {"keys": "1,2"}):
        assert len(re.findall(PICTURE, first.look(query))) == COUNT
    for query in ({"model": "user/other"}, {"seed": "3"}, {"psi": "0.5"}, {"count": "2"}, {"tab": "mix"}):
        assert first.look(query) == ""
    assert 'class="dark"' in first.look({"__theme": "dark"})
    assert 'class=""' in first.look({"__theme": '"><script>'})
    assert First(model).look({}) == ""


def test_a_model_that_was_trained_further_has_new_first_pictures(model):
    first, found = begin(model)
    assert first.holds(found)
    before = first.look({})
    make_model(Path(model), size=32, ngf=4, seed=1)
    os.utime(Path(model) / "model.safetensors", (1, 1))
    now = ModelCache(given=[model]).get(model)
    assert not first.holds(now)
    first.keep(now, list(seed_pictures(now, range(COUNT), PSI)))
    assert first.holds(now) and first.look({}) != before


def test_what_was_drawn_is_cleaned_up_and_the_first_pictures_stay(model):
    demo = build_demo(models=[model])
    found = ModelCache(given=[model]).get(model)
    first, late = (list(seed_pictures(found, [seed], PSI))[0][0] for seed in (0, 500))
    film = serve(b"frames", "walk.mp4")
    [gallery] = [block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "pictures"]
    gallery.keep_in_cache.add(first)
    delete_files_created_by_app(demo, 0)
    assert [os.path.exists(path) for path in (first, late, film)] == [True, False, False]
    assert Path(serve(b"frames", "walk.mp4")).read_bytes() == b"frames"
