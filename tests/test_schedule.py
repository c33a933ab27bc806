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


def test_kimg_come_due_when_they_are_crossed(clock):
    every = Every("0.02kimg", 8)
    assert [images for images in range(16, 72, 8) if every.due(images)] == [24, 40, 64]
    clock[0] += 10**6
    assert not every.due(64) and every.due(80)


def test_never_is_never_due(clock):
    never = Every("never", 0)
    clock[0] += 10**9
    assert not never.due(10**9)
