"""How much work a point is expected to be."""

from __future__ import annotations

from typing import Any

import pytest

from bench.point.spec import PointSpec
from bench.sweep.plan import weight


def spec(**values: Any) -> PointSpec:
    return PointSpec(system="astra", workload="alpaca", **values)


@pytest.mark.parametrize(
    "heavier",
    [
        {"rate": 2.0},  # more requests in the same time
        {"rate": 0.5, "duration": 1200.0},  # as many requests, over more steps
        {"sampling": "beam2"},
    ],
)
def test_what_makes_a_point_heavier(heavier: dict[str, Any]) -> None:
    assert weight(spec(**heavier)) > weight(spec())


def test_beams_weigh_by_their_number() -> None:
    weights = [weight(spec(sampling=name)) for name in ("n1", "beam2", "beam4", "beam6")]
    assert weights == sorted(weights)
    assert weights[3] - weights[2] == pytest.approx(weights[2] - weights[1])
