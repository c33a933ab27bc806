"""Pictures to try things on, and a place of their own for what is made of them."""

import io

import numpy as np
import pytest
from PIL import Image

from fastgan.data import load_pictures

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """Keeps what `datasets` makes of a parquet file out of the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    # It rests this long whenever a parquet file has been streamed, and ours hold seven pictures.
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def load(tmp_path, datasets_cache):
    """load_pictures at 32 pixels, with a cache of its own and no bar."""

    def call(source, **settings):
        settings = {"size": (32, 32), "cache_dir": tmp_path / "cache", "progress": False} | settings
        return load_pictures(str(source), **settings)

    return call


@pytest.fixture
def folder(tmp_path):
    """Six pictures of different grey, 20 apart, in a folder and one below it."""
    path = tmp_path / "pictures"
    (path / "more").mkdir(parents=True)
    for n, name in enumerate(["a.png", "b.JPG", "c.webp", "more/d.Jpeg", "more/e.bmp", "more/f.PNG"]):
        Image.new("RGB", (40, 40), (20 * n,) * 3).save(path / name)
    return path


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def close(pixel, expected, by=4):
    return np.abs(np.asarray(pixel, int) - np.asarray(expected, int)).max() <= by
