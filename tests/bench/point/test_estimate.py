"""The estimate of what a simulation costs, and what the user is told before it starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.point import estimate as module
from bench.point.estimate import Estimate, estimate
from bench.point.platform import simulate
from bench.point.serve import _prepare, run_point
from bench.point.spec import PointSpec
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", workload="sharegpt", rate=2.0, duration=100.0, warmup=0.0)


def estimate_of(spec: PointSpec) -> Estimate:
    return estimate(*_prepare(simulate(spec), spec, None))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rate": 0.01, "duration": 3000.0},
        {"rate": 8.0, "duration": 30.0},
        {"system": "orca-max"},
        {"system": "ft", "rate": 1.0},
        {"rate": 20.0, "replicas": 8},
        {"workload": "alpaca", "rate": 10.0, "duration": 60.0, "sampling": "beam4"},
        {"rate": 8.0, "timeout": 20.0},
    ],
)
def test_steps_are_estimated_within_a_factor_of_two(values: dict[str, Any]) -> None:
    spec = replace(SPEC, **values)
    steps = run_point(spec).metrics["steps"]
    assert steps / 2 < estimate_of(spec).steps < steps * 2


def test_a_long_or_large_run_is_told_with_the_options_that_bound_it() -> None:
    assert estimate_of(SPEC).notice() is None
    rare = estimate_of(replace(SPEC, rate=0.1, duration=1e6))
    assert rare.seconds > 200
    assert "for less, give --timeout, or a lower --duration" in str(rare.notice())
    queue = estimate_of(replace(SPEC, rate=1e4, duration=300.0, workload="alpaca"))
    assert queue.num_bytes > 1.5e9
    many = estimate_of(replace(SPEC, replicas=10_000, rate=100.0, duration=1.0))
    assert many.num_bytes < 1e9
    assert replace(many, num_bytes=2e9).notice() is not None
    assert "lower --replicas" in many.remedy


def test_what_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "memory_bytes", lambda: 50 << 20)
    with pytest.raises(UserError, match=r"about 0.1 GiB of memory are needed, and here are 0.0"):
        run_point(SPEC)


def test_the_command_tells_it_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_S", 0.0)
    line = "run --system astra --rate 1 --duration 20 --backend sim --json"
    told = CliRunner().invoke(main, line.split())
    assert told.exit_code == 0
    assert "this takes about 0s for" in told.stderr
    assert "this takes" not in CliRunner().invoke(main, [*line.split(), "--quiet"]).stderr
