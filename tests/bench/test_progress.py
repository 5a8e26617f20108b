from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from bench.point.spec import PointSpec
from bench.progress import LINE_EVERY_S, Display, Shown, choose, clock

SMALL, LARGE = (PointSpec(system="astra", rate=rate) for rate in (1.0, 3.0))
WEIGHTS = {SMALL: 1.0, LARGE: 3.0}


class Log:
    """A display that writes to no terminal, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._stream = io.StringIO()
        self.display = Shown(Console(file=self._stream), get_time=lambda: self.now_s)

    def lines(self) -> list[str]:
        """What was printed since the last call."""
        text = self._stream.getvalue()
        self._stream.seek(0)
        self._stream.truncate()
        return text.splitlines()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_log_gets_a_line_now_and_then_with_the_time_left(log: Log) -> None:
    display = log.display
    with display.over(WEIGHTS):
        display.begin(LARGE)
        for step in range(20):
            log.now_s += LINE_EVERY_S / 10
            display.advance(LARGE, (step + 1) / 40)
        assert log.lines() == [
            f"[0/2 points, 19%, 10s, 44s left] running: {LARGE.slug} 25%",
            f"[0/2 points, 38%, 20s, 34s left] running: {LARGE.slug} 50%",
        ]
        display.end(LARGE)
        display.begin(SMALL)
        display.end(SMALL)
        assert log.lines() == []
    assert log.lines() == ["[2/2 points, 100%, 20s]"]


def test_notes_and_failures_are_told_at_once(log: Log) -> None:
    long = "a note " * 30
    with log.display.over(WEIGHTS):
        log.display.note(f"{long}[bold]")
        log.display.begin(SMALL)
        log.display.end(SMALL, error="no luck")
        assert log.lines() == [f"{long}[bold]", f"FAILED {SMALL.slug}: no luck"]


def test_a_point_begun_again_starts_from_nothing(log: Log) -> None:
    with log.display.over({LARGE: 1.0}):
        for share in (0.75, 0.25):
            log.display.begin(LARGE)
            log.now_s += LINE_EVERY_S
            log.display.advance(LARGE, share)
    first, again = log.lines()
    assert "[0/1 points, 75%" in first
    assert "[0/1 points, 25%" in again


def test_many_running_points_are_counted(log: Log) -> None:
    specs = [PointSpec(system="astra", rate=float(n)) for n in range(1, 6)]
    with log.display.over(dict.fromkeys(specs, 1.0)):
        for spec in specs:
            log.display.begin(spec)
        log.now_s += LINE_EVERY_S
        log.display.advance(specs[0], 0.5)
    assert log.lines()[0].endswith(f"{specs[2].slug} 0% and 2 more")


def test_a_log_that_is_interrupted_says_where_it_stands(log: Log) -> None:
    def stop() -> None:
        with log.display.over(WEIGHTS):
            log.display.begin(LARGE)
            log.display.end(LARGE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert log.lines() == ["[1/2 points, 75%, 0s]"]


def test_without_an_ended_point_there_is_no_last_line(log: Log) -> None:
    with log.display.over({SMALL: 1.0}):
        log.display.begin(SMALL)
    assert log.lines() == []


def test_bars_on_a_terminal() -> None:
    stream = io.StringIO()
    display = Shown(Console(file=stream, force_terminal=True, width=100))
    for _ in range(2):  # a display may be used again
        with display.over(WEIGHTS):
            display.note("a note")
            display.begin(LARGE)
            display.advance(LARGE, 0.5)
            display.end(LARGE, error="no luck")
    text = stream.getvalue()
    assert "a note" in text
    assert "0/2 points" in text
    assert f"FAILED {LARGE.slug}: no luck" in text


def test_one_piece_of_work(log: Log) -> None:
    with log.display.single("a name") as advance:
        log.now_s += LINE_EVERY_S
        advance(0.5)
    assert log.lines() == [
        "[0/1 points, 50%, 10s] running: a name 50%",
        "[1/1 points, 100%, 10s]",
    ]


def test_the_display_fits_where_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for quiet in (True, False):
        with choose(quiet=quiet).single("a name"):
            pass
        assert stream.getvalue() == ("" if quiet else "[1/1 points, 100%, 0s]\n")
    assert type(choose(quiet=True)) is Display


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (190, "3m10s"), (7500, "2h05m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert clock(seconds) == text
