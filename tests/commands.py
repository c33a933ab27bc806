"""The commands as a person at a Hub would give them: in processes of their own, where no client is patched."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EMOJI = ROOT / "examples" / "emoji_faces"
PATIENCE = 600  # seconds for what takes a few on a machine that does nothing else

# The waits between tries are shortened; what is tried, and how often, is not.
WORK = """
import contextlib, io, json, os, sys
from fastgan import publish
from fastgan.cli import main, train_main
import fastgan.trainer
publish.WAITS = (0.05, 0.1)
answers = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    call = json.loads(line)
    os.environ.update(call["env"])
    os.chdir(call["folder"])
    out, err = io.StringIO(), io.StringIO()
    program, *arguments = call["command"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = {"fastgan": main, "train.py": train_main}[program](arguments)
        except SystemExit as stop:  # arguments that make no command
            code = stop.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""


# Runs a script that also ends when its standard input does, so that it never outlives the tests, however they end.
TOGETHER = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def end(process: subprocess.Popen, patience: float = 30) -> None:
    """End a process if it runs still: ask first, and after so many seconds insist."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kill(process: subprocess.Popen) -> None:
    """End a process, the head of its group, and whatever is left of the group, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait for what a process is about to do; fails with what it said if it ends before, or is killed as too late."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        late = time.monotonic() > deadline
        if late or process.poll() is not None:
            kill(process)
            raise AssertionError(f"{'took too long' if late else 'ended'}: {process.stdout.read()}")
        time.sleep(0.02)


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


class Person:
    """Somebody who gives one command after another, in one process that knows one Hub; a context manager."""

    def __init__(self, environment: dict[str, str]):
        self.environment = {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def __enter__(self) -> "Person":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", WORK], env=self.environment, **pipes)
        return self

    def __exit__(self, *exc_info) -> None:
        with suppress(BrokenPipeError):  # it ended before it had read all
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        end(self.process)
        self.process.stdout.close()

    def give(self, *command: object, folder: Path = ROOT, token: str | None = None) -> Answer:
        """What "fastgan" or "train.py" with these arguments comes to, signed in with the usual token or another."""
        env = {"HF_TOKEN": self.environment["HF_TOKEN"] if token is None else token}
        call = {"command": [str(part) for part in command], "folder": str(folder), "env": env}
        print(json.dumps(call), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"the process ended at {call['command']}"
        return Answer(*json.loads(line))


def run_python(code: str, environment: dict[str, str], folder: Path, *arguments: str) -> str:
    """What a piece of Python prints in a process of its own."""
    environment = {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def only_line(text: str, start: str = "error: ") -> str:
    """The one line that begins so."""
    lines = [line for line in text.splitlines() if line.startswith(start)]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def without_hub() -> dict[str, str]:
    """The environment of a process that can reach no Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    return kept | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "", "NO_PROXY": "127.0.0.1,localhost"}
