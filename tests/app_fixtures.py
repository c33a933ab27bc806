"""The page that the tests in a browser and those of its API share: names of its fixtures begin with `app`."""

import pytest


@pytest.fixture(scope="session")
def app_home(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="session")
def app_hub(app_home):
    from tests.hub_server.server import HubServer

    with HubServer(app_home / "hub") as hub:
        yield hub


@pytest.fixture(scope="session")
def app_generator(app_home):
    """What draws the pictures of `app_repo`."""
    from tests.app_server import make_model

    return make_model(app_home / "model")


@pytest.fixture(scope="session")
def app_repo(app_hub, app_home, app_generator):
    from tests.app_server import push_blobs

    return push_blobs(app_hub, app_home / "model", app_generator)


@pytest.fixture(scope="session")
def app_other(app_hub, app_home):
    """A second model, and how it draws."""
    from tests.app_server import make_model, push

    generator = make_model(app_home / "other", seed=1)
    return push(app_hub, app_home / "other", "fastgan-other"), generator


@pytest.fixture(scope="session")
def app(app_hub, app_home, app_repo, app_other):
    """Address of the page."""
    from tests.app_server import app_running

    arguments = (app_repo, "--models", app_other[0], "--mcp")
    environment = app_hub.env(app_home / "cache", token="")
    with app_running(*arguments, env=environment, log=app_home / "app.log") as address:
        yield address
