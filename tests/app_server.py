"""The page as a person meets it: a local Hub with small models, and `fastgan app` in a process of its own."""

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from huggingface_hub import HfApi
from PIL import Image

from fastgan.config import ModelConfig
from fastgan.evaluation import save_features
from fastgan.hub import save_model
from fastgan.metrics import extract, feature_network
from fastgan.models import Generator
from fastgan.sampling import grid, sample
from tests.commands import ROOT, TOGETHER, end
from tests.hub_server.server import HubServer
from tests.networks import lively_generator

STARTS_WITHIN = 300  # seconds, on a machine that does other things too

CARD = """---
library_name: fastgan
model-index:
- name: blobs
  results:
  - task: {type: unconditional-image-generation}
    dataset: {name: blobs of paint, type: tester/blobs}
    metrics:
    - {type: kid, value: 0.0123, name: KID}
---
# Blobs

Some **bold** words, [a link](https://example.com/), [a file](samples.png) and <u>what is left out</u>.

<script>window.stolen = 1</script>
<img src="x" onerror="window.stolen = 2">
<a href="javascript:window.stolen = 3">press me</a>
<div style="position: fixed; inset: 0" onclick="window.stolen = 4">over everything</div>
<form action="https://example.com/"><input name="password"></form>

| setting | value |
| --- | --- |
| recipe | ${window.stolen = 5} |
"""


def make_model(folder: Path, size: int = 64, ngf: int = 8, channels: int = 3, seed: int = 0) -> Generator:
    """Write a model with random weights whose pictures differ from seed to seed, and give it as it will be loaded."""
    config = ModelConfig(size, size, channels=channels, z_dim=32, ngf=ngf, output_activation="tanh")
    generator = lively_generator(config, seed=seed)
    save_model(generator, folder)
    return generator


def push(hub, folder: Path, name: str, private: bool = False, ignore: list[str] | None = None) -> str:
    """Put a model folder on the local Hub, and give its id."""
    api = HfApi(hub.endpoint, token=hub.token)
    repo = f"{hub.user}/{name}"
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=ignore)
    return repo


def push_blobs(hub, folder: Path, generator: Generator) -> str:
    """Push a model with all that a repository may hold; the training pictures are those of its seeds 0 to 19."""
    (folder / "README.md").write_text(CARD)
    (folder / "train_config.json").write_text(json.dumps({"recipe": "paper", "batch_size": 8}))
    grid(torch.cat(list(sample(generator, range(4))))).save(folder / "samples.png")
    network = feature_network("efficientnet-lite0")
    save_features(folder, extract(network, sample(generator, range(20))), network, "blobs")
    return push(hub, folder, "fastgan-blobs")


def pixels(data: bytes | str) -> np.ndarray:
    """A picture's values, from its encoded bytes or its path."""
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data))


def free_port() -> int:
    """A port that nobody listens on, from below those that systems give to whoever asks for any.

    So nothing that starts meanwhile is given it before the page takes it.
    """
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port := random.randrange(11_000, 30_000)))
            return port


@contextmanager
def app_running(*arguments: str, env: dict[str, str], log: Path):
    """`fastgan app` with these arguments; gives its address, and ends it afterwards."""
    port = free_port()
    temporary = log.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    env = {**os.environ, **env, "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(temporary), "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", TOGETHER, "app.py", *arguments, "--port", str(port)]
    with open(log, "w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=ROOT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not answers(address):
            if process.poll() is not None:
                raise RuntimeError(f"the app ended: {log.read_text()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the app did not answer within {STARTS_WITHIN} s: {log.read_text()}")
            time.sleep(0.1)
        yield address
    finally:
        end(process)
        process.stdin.close()


def answers(address: str) -> bool:
    """Whether a page is there."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


class Demo(NamedTuple):
    """A page that is there to be measured or pictured."""

    address: str
    repo: str
    log: Path


@contextmanager
def demo_running(model: Path | None = None, size: int = 256, ngf: int = 64) -> Iterator[Demo]:
    """A Hub and the app on this machine, with the model of a run folder, or with one of random weights."""
    with TemporaryDirectory() as temporary, HubServer(Path(temporary, "hub")) as hub:
        folder, log = Path(temporary), Path(temporary, "log")
        if model is None:
            make_model(folder / "model", size, ngf)
            repo = push(hub, folder / "model", "fastgan-demo")
        else:
            # A copy, since pushing leaves a card that names the repository.
            shutil.copytree(model, folder / "model", ignore=shutil.ignore_patterns("checkpoint*"))
            repo = f"{hub.user}/fastgan-demo"
            command = [sys.executable, "-c", "import sys; from fastgan.cli import main; sys.exit(main(sys.argv[1:]))"]
            told = [*command, "push", folder / "model", repo, "--public"]
            subprocess.run(told, check=True, env=hub.env(folder / "own-cache") | {"PYTHONPATH": str(ROOT)})
        with app_running(repo, env=hub.env(folder / "cache", token=""), log=log) as address:
            yield Demo(address, repo, log)
