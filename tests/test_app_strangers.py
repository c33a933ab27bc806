"""What strangers' cards may cost, and files that pile up, without a browser."""

import itertools
import threading
import time
from pathlib import Path

from gradio.route_utils import delete_files_created_by_app

from fastgan.app import build_demo
from fastgan.app.cards import MOST_TAGS, read_card
from fastgan.app.pictures import SERVED, Files, serve


def test_tags_that_are_never_closed_cost_no_more_than_other_text():
    bomb = "".join(f"<b x={i}>" for i in range(3000)) + "\n\n" + "<p>x</b>" * 6000
    started = time.process_time()
    card = read_card(bomb)
    assert time.process_time() - started < 2 and len(card.html) < 10 * len(bomb)
    assert read_card(MOST_TAGS // 2 * "<b>x</b>").html.count("<b>") == MOST_TAGS // 2


def test_metadata_that_repeats_itself_by_name_is_left_aside():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    result = "{task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: k, value: *a11}]}"
    lines.append(f"model-index: [{{name: m, results: [{result}]}}]")
    started = time.process_time()
    card = read_card("\n".join(["---", *lines, "---", "# Text"]))
    assert time.process_time() - started < 2
    assert "<h1>Text</h1>" in card.html and card.figures == []


def test_metadata_that_is_nested_deeply_is_left_aside():
    started = time.process_time()
    card = read_card("---\na: " + "[" * 50_000 + "\n---\n# Text")
    assert time.process_time() - started < 2 and "<h1>Text</h1>" in card.html


def test_the_clean_up_goes_on_while_files_are_added(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    demo = build_demo()
    files = next(files for files in demo.temp_file_sets if files is not SERVED and files is not demo.upload_file_set)
    for number in range(3000):
        files.add(serve(str(number).encode(), "a.txt"))
    folders = [Path(path).parent for path in files]
    done = threading.Event()

    def add() -> None:
        for number in itertools.count():
            if done.wait(1e-4):
                return
            files.add(str(tmp_path / str(number)))

    busy = threading.Thread(target=add)
    busy.start()
    try:
        delete_files_created_by_app(demo, age=None)
    finally:
        done.set()
        busy.join()
    assert not any(folder.exists() for folder in folders)
    assert all(isinstance(files, Files) for files in demo.temp_file_sets)
