"""The table of costs is measured by the figures' own commands."""

from pathlib import Path

import pytest

from bench.experiments import times
from bench.experiments.effort import Effort
from bench.experiments.times import Cost
from tools import measure_times


def test_a_figure_is_timed_by_its_command():
    cost = measure_times.measure("fig19-a", Effort.QUICK)
    assert 0.1 < cost.seconds < 120
    assert 0 < cost.megabytes < 5


def test_efforts_that_are_not_measured_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = {"fig2": {"full": {"seconds": 9.0, "megabytes": 3.0}}}
    monkeypatch.setattr(times, "_table", lambda: known)
    monkeypatch.setattr(measure_times, "TABLE", tmp_path / times.FILE)
    monkeypatch.setattr(measure_times, "NAMES", ("fig2",))
    monkeypatch.setattr(measure_times, "measure", lambda name, effort: Cost(1.0, 0.5))
    measure_times.main(["--effort", "quick"])
    expected = {"fig2": {Effort.FULL: Cost(9.0, 3.0), Effort.QUICK: Cost(1.0, 0.5)}}
    assert (tmp_path / times.FILE).read_text() == times.to_text(expected)


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    known = {"fig2": {"quick": {"seconds": 9.0, "megabytes": 3.0}}}
    measured = []
    monkeypatch.setattr(times, "_table", lambda: known)
    monkeypatch.setattr(measure_times, "TABLE", tmp_path / times.FILE)
    monkeypatch.setattr(measure_times, "NAMES", ("fig1", "fig2", "fig13"))

    def measure(name: str, effort: Effort) -> Cost:
        measured.append((name, effort))
        if name == "fig13":
            raise KeyboardInterrupt
        return Cost(1.0, 0.5)

    monkeypatch.setattr(measure_times, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        measure_times.main(["--effort", "quick", "--missing"])
    assert measured == [("fig1", Effort.QUICK), ("fig13", Effort.QUICK)]
    kept = {"fig1": {Effort.QUICK: Cost(1.0, 0.5)}, "fig2": {Effort.QUICK: Cost(9.0, 3.0)}}
    assert (tmp_path / times.FILE).read_text() == times.to_text({**kept, "fig13": {}})


@pytest.mark.skipif(not times._table(), reason="nothing has been measured yet")
def test_every_runnable_figure_is_in_the_table():
    measured = [name for name in measure_times.NAMES if times.cost_of(name, Effort.SCRIPTS)]
    assert measured == list(measure_times.NAMES), "'python -m tools.measure_times' measures them"
