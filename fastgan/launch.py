"""Processes that train.py starts: all that `accelerate launch --cpu --num_processes 2` was asked for, which starts one
only and leaves more to MPI; and one that outlives the cell of a notebook. And how a run hears signals, and can go on
speaking when nobody reads it."""

import errno
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # set by torchrun or by an MPI
LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")  # accelerate launch, and its other names
TRAIN = "import sys; from fastgan.cli import train_main; sys.exit(train_main())"
HANG_UP = [getattr(signal, name) for name in ("SIGHUP", "SIGBREAK") if hasattr(signal, name)]  # a closed terminal
UNREAD = {errno.EPIPE, errno.EIO} | ({errno.EINVAL} if os.name == "nt" else set())  # nobody reads a stream any more
PATIENCE = 30  # seconds that the other processes get to end by themselves after one has failed


@contextmanager
def handling(handlers: Mapping[int, Callable]) -> Iterator[None]:
    """Have these signals handled so, and as before afterwards."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Lasting:
    """A text stream that can still be written to when nobody reads it any more: its terminal has closed, or what its
    text went through has ended, as `| tee` does at Ctrl-C.

    Args:
        stream: where text goes.
        unread: called when text has found nobody.
    """

    def __init__(self, stream: TextIO, unread: Callable[[], None]):
        self._stream, self._unread = stream, unread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        self._try(self._stream.write, text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable, *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            if error.errno not in UNREAD:
                raise
            with open(os.devnull, "w") as nowhere:  # where the stream goes from now on, whoever writes to it
                os.dup2(nowhere.fileno(), self._stream.fileno())
            self._unread()


def train_command() -> str:
    """What a person types to train again: `fastgan train` where `fastgan` was typed, else `python train.py`."""
    by_module = Path(sys.argv[0]) == Path(__file__).with_name("__main__.py")
    return "fastgan train" if by_module or _program(sys.argv[0]) == "fastgan" else "python train.py"


def missing_processes() -> dict[int, dict[str, str]]:
    """The processes that `accelerate launch --cpu` was asked for on this machine when it started only this one.

    Returns:
        What each has to find in its environment, by its number on this machine; empty where nothing is missing.
    """
    alone = "MASTER_ADDR" in os.environ and not any(name in os.environ for name in RANKS)
    if not alone or os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("true", "1", "yes"):
        return {}
    asked = _asked_of_the_launcher()
    if asked is None or asked.num_processes is None:
        return {}
    machines, here = asked.num_machines or 1, asked.num_processes // (asked.num_machines or 1)
    shared = {
        "WORLD_SIZE": str(here * machines),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_PORT": str(asked.main_process_port or _free_port()),
    }
    first = (asked.machine_rank or 0) * here
    return {i: {**shared, "RANK": str(first + i), "LOCAL_RANK": str(i)} for i in range(here)}


def start_processes(environments: dict[int, dict[str, str]], arguments: Sequence[str]) -> int:
    """Train in several processes and wait for them. Returns the exit code of the first that failed, or 0.

    Ctrl-C and a closing terminal reach them by themselves, SIGTERM is passed on; they save and end.
    """
    command = [sys.executable, "-c", TRAIN, *arguments]
    processes = [subprocess.Popen(command, env={**os.environ, **more}) for more in environments.values()]

    def wait(number, frame):
        pass

    def pass_on(number, frame):
        for process in processes:
            process.send_signal(number)

    handlers = {number: wait for number in (signal.SIGINT, *HANG_UP)} | {signal.SIGTERM: pass_on}
    with handling(handlers):
        try:
            failed, end = 0, math.inf
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                if not failed and (failed := next((p.returncode for p in processes if p.returncode), 0)):
                    end = time.monotonic() + PATIENCE
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    failed = failed or next((process.returncode for process in processes if process.returncode), 0)
    return failed if failed >= 0 else 1  # below 0 is the signal that ended it


def is_in_a_cell() -> bool:
    """Whether this is the one process that `!python train.py` has started in a cell of Jupyter or Kaggle."""
    return hasattr(os, "setsid") and "JPY_PARENT_PID" in os.environ and "LOCAL_RANK" not in os.environ


def start_beside_the_cell(arguments: Sequence[str]) -> int:
    """Train in a process that outlives this one, which such a cell kills half a second after it was stopped.

    Stopped, the other process hears that its terminal has closed, saves, and ends. Returns its exit code.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
    heard: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # Set before the other starts, which else would ignore what this one was started to ignore, as under nohup.
    with handling(dict.fromkeys(numbers, lambda number, frame: heard.append(number))):
        process = subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], env=environment, start_new_session=True)
        while process.poll() is None and not heard:
            time.sleep(0.1)
        if heard:
            process.send_signal(signal.SIGHUP)
            print("Stopping after this step and saving; the run folder is complete in a moment", file=sys.stderr)
        code = process.wait()
    return code if code >= 0 else 1  # below 0 is the signal that ended it


def _asked_of_the_launcher():
    """What `accelerate launch` was told, flags before its own configuration; None where it did not start us."""
    import psutil
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    try:
        # On Windows, python.exe of a virtual environment is a process of its own in between.
        parents = [process.cmdline() for process in psutil.Process().parents()[: 2 if os.name == "nt" else 1]]
    except psutil.Error:  # it is gone, or somebody else's
        return None
    found = ((words, i) for words in parents for i, word in enumerate(words[:4], 1) if _program(word) in LAUNCHERS)
    words, start = next(found, ((), 0))
    if not start:
        return None
    asked = launch_command_parser().parse_args(words[start:])
    if asked.num_processes is None:
        asked.num_processes = load_config_from_file(asked.config_file).num_processes
    return asked


def _program(word: str) -> str:
    """The name of a program that a word of a command line starts."""
    return Path(word).name.removesuffix(".exe")


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
