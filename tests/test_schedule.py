import itertools

import pytest

from fastgan import schedule
from fastgan.schedule import Every


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when they are set."""
    seconds = [1000.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: seconds[0])
    return seconds


def test_minutes_come_due_by_the_clock(clock):
    every = Every("2min", 0)
    due = []
    for _ in range(12):
        clock[0] += 30
        due.append(every.due(0))
    assert due == list(itertools.islice(itertools.cycle([False, False, False, True]), 12))


def test_a_long_pause_makes_one_thing_due_and_no_more(clock):
    every = Every("0.5min", 0)
    clock[0] += 1000
    assert every.due(0)
    clock[0] += 5  # 1005 of 1020
    assert not every.due(0)
    clock[0] += 15
    assert every.due(0)


def test_kimg_come_due_by_the_pictures(clock):
    every = Every("0.016kimg", 8)
    assert [every.due(images) for images in (8, 15, 16, 24, 31, 33, 64)] == [
        False,
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    clock[0] += 10**6
    assert not every.due(64)


def test_never_is_never_due(clock):
    every = Every("never", 0)
    clock[0] += 10**9
    assert not every.due(10**9)
