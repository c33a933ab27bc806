import errno
import os
import subprocess
import sys

import pytest

from fastgan.cli import main, train_main
from fastgan.config import TrainConfig
from fastgan.launch import train_command
from fastgan.run_folder import RunFolder
from tests.commands import EMOJI, ROOT

SETTINGS = ["--dataset", str(EMOJI), "--size", "64", "--dry-run"]


def python(code: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, **options)


def test_importing_the_package_leaves_what_is_large_for_later():
    large = "{'torch', 'gradio', 'datasets', 'huggingface_hub', 'numpy', 'PIL'}"
    assert python(f"import sys, fastgan; print({large} & set(sys.modules))").stdout == b"set()\n"


def test_fastgan_train_is_train_py(capsys):
    assert train_main(SETTINGS) == main(["train", *SETTINGS]) == 0
    settings = capsys.readouterr().out
    assert settings[: len(settings) // 2] * 2 == settings and '"size": "64"' in settings
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert capsys.readouterr().out.startswith("usage: fastgan train --dataset USER/NAME|PATH [options]")


def test_the_launcher_starts_the_package_as_a_module():
    command = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "fastgan", "train"]
    done = subprocess.run([sys.executable, *command, *SETTINGS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"size": "64"' in done.stdout


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/home/me/.venv/bin/fastgan", "fastgan train"),
        (str(ROOT / "fastgan" / "__main__.py"), "fastgan train"),
        ("/home/me/fastgan/train.py", "python train.py"),
        ("/usr/lib/python3/pytest/__main__.py", "python train.py"),
    ],
)
def test_a_run_says_how_to_go_on_in_the_words_it_was_started_with(monkeypatch, program, command):
    monkeypatch.setattr(sys, "argv", [program])
    assert train_command() == command


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_a_terminal_without_a_size_gets_one_so_that_bars_are_drawn():
    code = "import os; from fastgan.cli import run; run(lambda: print(*os.get_terminal_size(2)))"
    ours, theirs = os.openpty()  # as notebooks make them: 0 by 0
    try:
        assert os.get_terminal_size(theirs) == (0, 0)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == b"100 24\n"


def test_output_in_an_old_code_page_loses_letters_and_nothing_else():
    done = python(
        "from fastgan.cli import run; run(lambda: print('12 ± 3 東'))", env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout) == (0, b"12 ? 3 ?\n")


def test_a_reader_who_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from fastgan.cli import run; sys.exit(run(lambda: print('x' * 100_000)))"
    try:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks otherwise")
def test_a_disk_without_locks_keeps_no_run_out_and_nothing_of_them(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)  # there is no such disk here
    config = TrainConfig(dataset=str(EMOJI))
    for _ in range(2):
        folder = RunFolder(tmp_path / "run", resumes=False, writes=True)
        folder.open(config)
        folder.leave()
    assert os.listdir(tmp_path / "run") == ["train_config.json"]
