"""Errors of the simulation: what the shipped validations say follows from their points."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT

from bench.validation.compare import judge, order_errors, sustained_error
from bench.validation.record import FILE, read_validation

SHIPPED = sorted((ROOT / "artifacts" / "reference").glob(f"cpu/*/{FILE}"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_shipped_rates_orders_and_aims_follow_from_the_points(path: Path) -> None:
    found = read_validation(path.parent)
    assert judge(found["points"], found["noise"]) == found["aims"]
    assert order_errors(found["sustained"]) == found["wrong_orders"]
    for row in found["sustained"]:
        key = (row["case"], row["system"])
        points = [p for p in found["points"] if (p["case"], p["system"]) == key]
        assert row.items() >= sustained_error(points, row["limit_s_per_token"]).items()


def test_a_wrong_order_is_named() -> None:
    rates = {"ft": (1.0, 3.0), "orca-max": (2.0, 2.0), "astra": (4.0, 4.0)}
    rows = [{"system": s, "measured": m, "predicted": p} for s, (m, p) in rates.items()]
    assert order_errors(rows) == ["ft over orca-max"]
