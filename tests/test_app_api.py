"""The page as other programs meet it: its API, its tools, and requests that no page would send."""

import asyncio
import base64
import gzip
import json
import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file

from fastgan.sampling import sample, to_pil
from tests.app_server import ROOT, pixels


@pytest.fixture(scope="module")
def client(app, tmp_path_factory):
    return Client(app, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def fetch(address: str, **headers: str):
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers))


def test_the_first_pictures_come_with_the_page_itself(app):
    page = fetch(app).read()
    assert page.count(b'<img alt="" src="data:image/webp;base64,') == 16
    assert page.index(b'id="first-look"') < page.index(b"<gradio-app")
    with fetch(app, **{"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()) == page
    for other in ("?seed=4", "?tab=mix", "config"):
        assert b"first-look" not in fetch(f"{app}/{other}").read()


def test_a_copy_of_a_training_picture_is_called_one(client, app_repo):
    text, rows = client.predict(app_repo, 1, "7", api_name="/nearest")
    assert text.startswith("**Very near to a training picture.**")
    assert rows["data"][0] == [7, "0.00"]
    text, rows = client.predict(app_repo, 1, "1000", api_name="/nearest")
    assert text.startswith("**Not a copy.**")


# ---------------------------------------------------------------------- the API


def test_every_action_is_an_endpoint_with_typed_and_described_parameters(client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(api) == [
        "/about",
        "/explore",
        "/explore_strip",
        "/interpolate",
        "/mix",
        "/mix_pair",
        "/nearest",
        "/project",
        "/sample",
        "/sample_zip",
    ]
    for endpoint in api.values():
        assert endpoint["description"]
        for parameter in endpoint["parameters"]:
            assert not parameter["parameter_name"].startswith("param_")
            assert parameter["python_type"]["type"] not in ("", "Any")


def test_the_endpoint_gives_the_pictures_of_the_python_api(client, app_repo, app_generator):
    gallery = client.predict(app_repo, 0.7, 20, 2, api_name="/sample")
    expected = [to_pil(image) for batch in sample(app_generator, [20, 21], psi=0.7) for image in batch]
    for item, picture in zip(gallery, expected, strict=True):
        assert np.array_equal(pixels(item["image"]), np.asarray(picture))
    assert [item["caption"] for item in gallery] == ["seed 20", "seed 21"]


def test_actions_are_mcp_tools_that_say_what_they_take(app, app_repo, app_generator):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with streamablehttp_client(f"{app}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = {tool.name: tool for tool in (await session.list_tools()).tools}
                asked = {"model": app_repo, "psi": 1, "content": "3", "style": "3", "gates": ["64"], "strength": 1}
                return tools, await session.call_tool(next(n for n in tools if n.endswith("mix_pair")), asked)

    tools, answer = asyncio.run(talk())
    assert len(tools) == 10
    sample_tool = next(tool for name, tool in tools.items() if name.endswith("sample"))
    assert "seeds that follow each other" in sample_tool.description
    assert "whole number from 0" in sample_tool.inputSchema["properties"]["seed"]["description"]
    [picture] = [part for part in answer.content if part.type == "image"]
    assert np.array_equal(pixels(base64.b64decode(picture.data)), np.asarray(app_generator.sample([3])[0]))


def test_a_model_that_is_not_there_is_said_in_a_sentence(client, app_repo):
    with pytest.raises(Exception, match="tester/nothing: no such model on the Hub"):
        client.predict("tester/nothing", 1, 0, 1, api_name="/sample")


# ---------------------------------------------------------------------- strangers


def test_an_empty_seed_is_said_in_a_sentence(client, app_repo):
    with pytest.raises(Exception, match="First seed: type a whole number"):
        client.predict(app_repo, 1, None, 1, api_name="/sample")


def test_an_upload_that_is_no_picture_is_refused(client, app_repo, tmp_path):
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(Exception, match="not a picture that can be read"):
        client.predict(app_repo, handle_file(tmp_path / "text.png"), 20, api_name="/project")


def call(app: str, endpoint: str, *data) -> str:
    """What the server answers to a request that no client of its own would send."""
    body = json.dumps({"data": data}).encode()
    asked = urllib.request.Request(f"{app}/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(asked))["event_id"]
    return urllib.request.urlopen(f"{app}/gradio_api/call/{endpoint}/{event}", timeout=60).read().decode()


@pytest.fixture
def secret(tmp_path):
    """A file of the server's that is nobody else's business."""
    (tmp_path / "secret.txt").write_text(token := secrets.token_hex())
    return tmp_path / "secret.txt", token


@pytest.mark.parametrize("path", ["{file}", "config.json", "http://127.0.0.1:1/a.png", "file://{file}"])
def test_no_path_or_address_from_a_visitor_is_opened(app, app_repo, secret, path):
    file, token = secret
    path = path.format(file=file)
    answer = call(app, "project", app_repo, {"path": path, "meta": {"_type": "gradio.FileData"}}, 20)
    assert answer.startswith("event: error")
    assert ("fetches nothing" in answer) == path.startswith("http")
    assert token not in answer


def test_files_of_the_server_are_not_served(app, secret):
    for path in (secret[0], str(Path(__file__)), "pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{app}/gradio_api/file={path}")
        assert refused.value.code in (403, 404)


@pytest.mark.parametrize(
    ("endpoint", "data", "said"),
    [
        ("sample", (1, -1, 1), "less than minimum"),
        ("sample", (9, 0, 1), "greater than maximum"),
        ("sample", (1, 0, 10**6), "greater than maximum value 64"),
        ("interpolate", (1, "0", 12, "spherical", "even", True, 12, [], "", "nothing"), "at least 2 keys"),
        ("interpolate", (1, "0-15", 120, "spherical", "even", True, 12, [], "", "nothing"), "at most 600"),
        ("mix", (1, "0-99", "1", ["64"], 1), "at most 8"),
        ("mix_pair", (1, "zzzz", "1", ["64"], 1), "code of a projected picture|code holds"),
        ("explore", (1, "x", *[0] * 10), "numbers and ranges"),
        ("explore_strip", (1, "0", 11, 6, 7), "direction|10"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(client, app_repo, endpoint, data, said):
    with pytest.raises(Exception, match=said):
        client.predict(app_repo, *data, api_name=f"/{endpoint}")


# ---------------------------------------------------------------------- the documentation


def test_the_python_in_the_documentation_runs_as_printed(app, app_repo, app_generator, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "APP.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    app_generator.sample([1])[0].save(tmp_path / "face.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("http://127.0.0.1:7860", app).replace("user/fastgan-anime", app_repo), names := {})
    said = capsys.readouterr().out
    assert "seed 0 " in said and "Found. Perceptual distance" in said
    assert np.array_equal(pixels(names["pictures"][0]["image"]), np.asarray(app_generator.sample([0])[0]))
    assert pixels(names["mixed"]).shape == (64, 64, 3)
