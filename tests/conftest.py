import os
import shutil
import signal
import subprocess
import sys

import pytest

from fastgan.launch import HANG_UP
from tests.commands import EMOJI, ROOT, kill

pytest_plugins = ["tests.hub_server.fixtures", "tests.pictures", "tests.runs", "tests.app_fixtures", "tests.browsers"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of two dozen faces."""
    folder = tmp_path_factory.mktemp("home-of-somebody") / "faces"
    folder.mkdir()
    for file in sorted(EMOJI.glob("*.webp"))[::8]:
        shutil.copy(file, folder)
    return str(folder)


@pytest.fixture
def start():
    """Starts train.py as a person does, in a group of its own; what still runs when the test is over is killed."""
    processes = []

    def call(*arguments: str, launcher: tuple[str, ...] = (sys.executable,), **env: str) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [*launcher, "train.py", *arguments]
        # Under nohup the tests ignore a closed terminal, and what they start would too.
        before = {number: signal.signal(number, signal.SIG_DFL) for number in HANG_UP}
        try:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return processes[-1]

    yield call
    for process in processes:
        kill(process)
        process.stdout.close()
