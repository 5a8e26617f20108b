from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from bench.point.spec import PointSpec
from bench.progress import Bars, Display, Ledger, Lines, choose, clock

SMALL, LARGE = (PointSpec(system="astra", rate=rate) for rate in (1.0, 3.0))
WEIGHTS = {SMALL: 1.0, LARGE: 3.0}


def test_time_left_follows_from_the_work_done() -> None:
    ledger = Ledger(WEIGHTS)
    assert ledger.left_s(10.0) is None
    ledger.begin(LARGE)
    ledger.advance(LARGE, 0.5)
    assert ledger.share == pytest.approx(1.5 / 4)
    assert ledger.left_s(30.0) == pytest.approx(50.0)
    ledger.end(LARGE)
    assert ledger.points_done == 1
    assert ledger.left_s(30.0) == pytest.approx(10.0)
    ledger.end(SMALL)
    assert ledger.share == 1.0
    assert ledger.left_s(30.0) == 0.0


def test_a_point_begun_again_starts_from_nothing() -> None:
    ledger = Ledger(WEIGHTS)
    ledger.begin(LARGE)
    ledger.advance(LARGE, 2.0)
    assert ledger.share == 0.75
    ledger.begin(LARGE)
    assert ledger.share == 0.0


def drive(display: Display) -> None:
    with display.over(WEIGHTS):
        display.note("a note")
        for spec in (LARGE, SMALL):
            display.begin(spec)
        display.advance(LARGE, 0.5)
        display.end(LARGE)
        display.end(SMALL, error="no luck")


def test_lines_for_a_log() -> None:
    stream = io.StringIO()
    drive(Lines(stream, every_s=0.0))
    note, half, first, last = stream.getvalue().splitlines()
    assert note == "a note"
    assert f"{LARGE.slug} 50%" in half
    assert first.startswith("[1/2 points")
    assert first.endswith(LARGE.slug)
    assert last.startswith("[2/2 points")
    assert last.endswith("FAILED: no luck")


def test_lines_are_sparse() -> None:
    stream = io.StringIO()
    display = Lines(stream, every_s=1e9)
    with display.over(WEIGHTS):
        display.begin(LARGE)
        for share in range(100):
            display.advance(LARGE, share / 100)
    assert stream.getvalue() == ""


def test_bars_on_a_terminal() -> None:
    stream = io.StringIO()
    drive(Bars(Console(file=stream, force_terminal=True, width=100)))
    text = stream.getvalue()
    assert "a note" in text
    assert "0/2 points" in text
    assert f"FAILED {SMALL.slug}: no luck" in text


def test_the_display_fits_where_standard_error_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert isinstance(choose(), Lines)
    assert type(choose(quiet=True)) is Display
    drive(choose(quiet=True))
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (190, "3m10s"), (7500, "2h05m")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert clock(seconds) == text
