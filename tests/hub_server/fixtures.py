"""The `hub` fixture, and settings that `huggingface_hub` reads from the environment once, when imported."""

import os

import pytest

os.environ["HF_HUB_DISABLE_XET"] = (
    "1"  # with hf_xet installed, uploads know no other way and no answer turns them back
)
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture
def hub(tmp_path_factory):
    """A fresh local Hub with the users "tester" (`hub.user`) and "other"."""
    from .server import HubServer

    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
