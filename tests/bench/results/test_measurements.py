"""Measured kernels: values that nothing measures are refused, and a report reads each file once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from made_up_kernels import MEASURED, measured

from bench.experiments.tables import Choice
from bench.records import seal
from bench.report.build import build_report
from bench.results.measurements import (
    FILE,
    measured_directory,
    read_measurement,
    write_measurement,
)
from bench.results.store import Snapshot
from engines.core.errors import UserError


@pytest.mark.parametrize("value", [-1e-9, 1.1e9])
@pytest.mark.parametrize(
    ("table", "name"),
    [("attention", "latency_s"), ("ratios", "paged_over_contiguous"), ("recovery", "swap_in_s")],
)
def test_values_that_nothing_measures_are_refused(
    tmp_path: Path, table: str, name: str, value: float
) -> None:
    found = copy.deepcopy(MEASURED)
    found[table][0][name] = value
    with pytest.raises(UserError, match=f"has {name} .*, which nothing measures"):
        write_measurement(tmp_path, found)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FILE).write_bytes(seal(found))
    with pytest.raises(UserError, match=f"has {name} .*, which nothing measures.*measure again"):
        read_measurement(tmp_path)


@pytest.mark.parametrize("value", [0.0, 1e9])
def test_values_at_the_bounds_are_read(tmp_path: Path, value: float) -> None:
    found = copy.deepcopy(MEASURED)
    found["recovery"][0]["swap_in_s"] = value
    write_measurement(tmp_path, found)
    assert read_measurement(tmp_path)["recovery"] == found["recovery"]


def test_a_report_reads_each_file_of_kernels_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        write_measurement(measured_directory(tmp_path, part, "cpu"), content)
        for part, content in (("attention", measured(1.1, 1.2)), ("recovery", MEASURED))
    ]
    opened, original = [], Path.open

    def count(self: Path, *given: Any, **named: Any) -> Any:
        opened.append(self)
        return original(self, *given, **named)

    monkeypatch.setattr(Path, "open", count)
    store = Snapshot(tmp_path, source="these sources")
    build_report(store, Choice(backend="sim"))
    for part in ("attention", "recovery"):  # the figures ask again
        assert store.kernels(part, backend="sim") is not None
    assert [opened.count(file) for file in files] == [1, 1]
