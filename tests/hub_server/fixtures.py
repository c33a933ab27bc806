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


@pytest.fixture(scope="session")
def shared_hub(tmp_path_factory):
    """One Hub for many tests, each with repositories of its own; whoever ordered failures calls `heal`."""
    from .server import HubServer

    with HubServer(tmp_path_factory.mktemp("shared-hub")) as server:
        yield server


@pytest.fixture(scope="session")
def person(shared_hub, tmp_path_factory):
    """Who gives commands, in a process that knows the shared Hub alone."""
    from tests.commands import Person

    with Person(shared_hub.env(tmp_path_factory.mktemp("home"))) as somebody:
        yield somebody
