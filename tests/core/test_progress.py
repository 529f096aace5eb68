"""What long work says where no bar can move."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from tqdm import tqdm

from ciao_peft.progress import Lines, each_told_once, long_work, span, told_later


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_a_log_gets_a_line_every_half_minute_with_what_is_left(clock, capsys):
    with Lines(100, "features", "row", clock=clock) as lines:
        for _ in range(10):
            clock.seconds += 7
            lines.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "features: 50 of 100 rows after 35 s, about 35 s left",
        "features: 100 of 100 rows after 1 min 10 s",
    ]


def test_quick_work_says_nothing(clock, capsys):
    with Lines(100, "features", "row", clock=clock) as lines:
        clock.seconds = 29
        lines.update(100)
    assert capsys.readouterr().err == ""


def test_what_was_done_before_does_not_count_as_fast(clock, capsys):
    lines = Lines(100, "search", "trial", initial=80, clock=clock)
    clock.seconds = 60
    lines.n = 90
    lines.refresh()
    assert capsys.readouterr().err == "search: 90 of 100 trials after 1 min, about 1 min left\n"
    clock.seconds = 600
    lines.refresh()  # nothing is new
    lines.close()
    assert capsys.readouterr().err == ""


def test_an_unknown_total_and_another_description(clock, capsys):
    lines = Lines(None, "suggest", "face", seconds=0, clock=clock)
    clock.seconds = 2
    lines.set_description("read")
    lines.update(1200)
    assert capsys.readouterr().err == "read: 1,200 faces after 2 s\n"


def test_the_place_decides_between_bar_lines_and_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(long_work(3, "features", "row", None), Lines)
    hidden = long_work(3, "features", "row", True)
    assert isinstance(hidden, tqdm) and hidden.disable
    shown = long_work(3, "features", "row", False, initial=1)
    assert isinstance(shown, tqdm) and not shown.disable and shown.n == 1
    shown.close()


def test_times_round_to_what_people_say():
    assert [span(value) for value in (0.2, 59.6, 599.6, 3599, 7200)] == ["0 s", "1 min", "10 min", "1 h", "2 h"]


def test_a_logger_tells_nothing_twice_and_afterwards_as_before(caplog):
    logger = logging.getLogger("ciao_peft.data")
    with each_told_once("ciao_peft.data"):
        for number in (1, 1, 2):
            logger.warning("%s left out", number)
    logger.warning("%s left out", 1)
    assert caplog.messages == ["1 left out", "2 left out", "1 left out"]


def test_warnings_are_kept_for_later_and_nothing_else_is(caplog):
    logger = logging.getLogger("ciao_peft.data")
    with caplog.at_level(logging.INFO, "ciao_peft.data"), told_later("ciao_peft.data") as told:
        logger.warning("%s left out", 1)
        logger.info("read")
    assert (told, caplog.messages) == (["1 left out"], ["read"])
