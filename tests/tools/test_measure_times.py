"""The table of costs is measured by the figures' own commands."""

import json
from pathlib import Path

import pytest

from bench.experiments import times
from bench.experiments.effort import Effort
from tools import measure_times


def test_a_figure_is_timed_by_its_command():
    cost = measure_times.measure("fig19-a", Effort.QUICK)
    assert 0.1 < cost["seconds"] < 120
    assert 0 < cost["megabytes"] < 5


def test_an_interruption_keeps_what_was_measured_and_the_other_efforts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old, new = ({"seconds": s, "megabytes": 1.0} for s in (9.0, 1.0))
    table = tmp_path / "times.json"
    table.write_text(json.dumps({"fig1": {"quick": old, "full": old}, "fig13": {"quick": old}}))
    monkeypatch.setattr(measure_times, "PATH", table)
    monkeypatch.setattr(measure_times, "NAMES", ("fig1", "fig2", "fig13"))

    def measure(name: str, effort: Effort) -> dict[str, float]:
        if name == "fig13":
            raise KeyboardInterrupt
        return new

    monkeypatch.setattr(measure_times, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        measure_times.main("quick")
    assert json.loads(table.read_text()) == {
        "machine": measure_times.this_machine(),
        "fig1": {"quick": new, "full": old},
        "fig2": {"quick": new},
        "fig13": {"quick": old},
    }


@pytest.mark.parametrize("name", measure_times.NAMES)
def test_every_figure_is_in_the_table(name):
    assert set(times.costs(name)) == set(Effort), "'python -m tools.measure_times' measures it"


def test_the_table_says_of_which_machine_it_is():
    assert "cores), Python 3." in times.machine()
    assert "cores), Python 3." in measure_times.this_machine()
