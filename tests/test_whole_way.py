"""Pictures of one's own → dataset → training → model → fine-tuning → Space, with a Hub between all of them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client
from PIL import Image

from tests.app_server import STARTS_WITHIN, answers, free_port
from tests.commands import EMOJI, PATIENCE, ROOT, TOGETHER, end, run_python

TINY = ["--size=32", "--ngf=4", "--z-dim=16", "--batch-size=8", "--max-steps=2", "--eval-images=0"]
LAUNCH = "--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no".split()

FASTGAN = ["-c", "import sys; from fastgan.cli import main; sys.exit(main())"]
DRAW = """
import fastgan, hashlib
generator = fastgan.from_pretrained("tester/faces")
print(hashlib.sha256(generator.sample([7])[0].tobytes()).hexdigest())
"""


@pytest.fixture
def somebody(hub, tmp_path):
    """Runs a command of the package in a process of its own, as somebody who knows this Hub; gives what it said."""
    environment = {**hub.env(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*command: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    run.environment = environment
    return run


def test_from_a_folder_of_pictures_to_a_page_that_draws(hub, somebody, tmp_path):
    folder = tmp_path / "emoji"
    folder.mkdir()
    for file in sorted(EMOJI.glob("*.webp"))[::12]:
        (folder / file.name).symlink_to(file)
    assert "Pushed 17 pictures" in somebody(*FASTGAN, "dataset", "push", folder, "tester/emoji")

    launch = ["-m", "accelerate.commands.launch", *LAUNCH, "train.py", *TINY]
    data = ["--dataset", "tester/emoji"]
    said = somebody(*launch, *data, "--output-dir", tmp_path / "run", "--push-to-hub", "tester/faces")
    assert "everything is there" in said
    card = hub.repo_files("tester/faces")["README.md"].decode()
    assert "datasets:\n- tester/emoji\n" in card and "17 pictures of [tester/emoji]" in card

    here = run_python(DRAW.replace('"tester/faces"', repr(str(tmp_path / "run"))), somebody.environment, tmp_path)
    afresh = run_python(DRAW, hub.env(tmp_path / "empty"), tmp_path)
    assert afresh == here

    tuned = ["--init-from", "tester/faces", "--freeze-d", "1", "--output-dir", tmp_path / "tuned"]
    said = somebody(*launch, *data, *tuned, "--push-to-hub", "tester/tuned", "--hub-public")
    assert "the generator keeps all" in said and "the discriminator keeps all" in said
    assert "base_model: tester/faces\n" in hub.repo_files("tester/tuned")["README.md"].decode()

    space = tmp_path / "space"
    somebody(*FASTGAN, "space", "create", "tester/demo", "--model", "tester/tuned", "--public")
    for name, content in hub.repo_files("tester/demo", "spaces").items():
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        (space / name).write_bytes(content)
    port = free_port()
    environment = hub.env(tmp_path / "visitor", "") | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(tmp_path / "served"),
    }
    # From its own folder, as a Space runs it: the package is the one beside app.py.
    command, address = [sys.executable, "-c", TOGETHER, "app.py"], f"http://127.0.0.1:{port}"
    page = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=space, env=environment)
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not answers(address):
            assert page.poll() is None and time.monotonic() < deadline
            time.sleep(0.3)
        client = Client(address, verbose=False, download_files=tmp_path / "downloads")
        pictures = client.predict(model="tester/tuned", psi=1, seed=7, count=1, api_name="/sample")
        shown = Image.open(Path(pictures[0]["image"]))
        code = 'import fastgan; fastgan.from_pretrained("tester/tuned").sample([7])[0].save("seed7.png")'
        run_python(code, somebody.environment, tmp_path)
        assert shown.convert("RGB").tobytes() == Image.open(tmp_path / "seed7.png").tobytes()
    finally:
        end(page)
        page.stdin.close()
