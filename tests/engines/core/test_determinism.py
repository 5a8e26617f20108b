"""The same point gives the same result, to the last bit; another seed another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.point.serve import Outcome, run_point
from bench.point.spec import PointSpec
from bench.results.point_files import TIMES
from engines.core.config import System

CASES = [
    *((system.value, {}) for system in System),
    ("astra", {"sampling": "beam4"}),
    ("astra", {"sampling": "n4", "kv_slots": 3000}),
    ("orca-oracle", {"sampling": "beam2"}),
    ("astra", {"preemption": "swap", "kv_slots": 3000, "rate": 20.0}),
    ("astra", {"workload": "translation-5shot", "share_prefix": True}),
]


def run(system: str, *, seed: int, **values: Any) -> Outcome:
    settings: dict[str, Any] = {"workload": "alpaca", "rate": 4.0, "duration": 25.0}
    return run_point(PointSpec(system=system, seed=seed, **(settings | values)))


def metrics(outcome: Outcome) -> dict[str, Any]:
    """All but what the machine's speed decides."""
    return {key: value for key, value in outcome.metrics.items() if key not in TIMES}


@pytest.mark.parametrize(("system", "values"), CASES)
def test_same_seed_same_result(system: str, values: dict[str, Any]) -> None:
    first, again = (run(system, seed=1, **values) for _ in range(2))
    assert metrics(first) == metrics(again)
    assert first.inputs == again.inputs
    assert first.requests.keys() == again.requests.keys()
    for name, column in first.requests.items():
        assert column.tobytes() == again.requests[name].tobytes(), name
    other = run(system, seed=2, **values)
    assert metrics(other) != metrics(first) | {"seed": 2}
    assert other.inputs["workload"]["sha256"] != first.inputs["workload"]["sha256"]


def test_all_systems_serve_the_same_requests() -> None:
    """A comparison is of systems only: arrivals and lengths do not depend on them."""
    outcomes = [run(system.value, seed=1) for system in System]
    for name in ("request_id", "arrival_s", "input_len", "output_len"):
        assert all(
            np.array_equal(outcome.requests[name], outcomes[0].requests[name])
            for outcome in outcomes
        )
