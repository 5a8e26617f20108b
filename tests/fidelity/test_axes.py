"""Rates that Astra sustains, not only ratios, against where the paper's axes end.

Its plotter ended them at 1.1 times the last rate below 1.1 s/token. No price was fitted to them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.experiments.capacity import LATENCY, LIMIT_S_PER_TOKEN
from bench.experiments.registry import find_panel
from bench.point.serve import run_point


def latency(model: str, rate: float, duration: float) -> float:
    """Mean normalized latency in s/token at a rate, over a trace as long as the paper's."""
    spec = find_panel(f"fig12-{model}-sharegpt").points()[0]
    assert spec.system.value == "astra"
    return float(run_point(replace(spec, rate=rate, duration=duration)).metrics[LATENCY])


@pytest.mark.parametrize(
    ("model", "duration", "sustained"),
    [("13b", 3600.0, 1.9), ("66b", 3600.0, 1.0), ("175b", 900.0, 2.5)],
)
def test_what_the_axes_show_is_sustained(model: str, duration: float, sustained: float) -> None:
    assert latency(model, sustained, duration) < LIMIT_S_PER_TOKEN


@pytest.mark.parametrize(
    ("model", "duration", "exceeded"), [("13b", 3600.0, 2.1), ("175b", 900.0, 3.0)]
)
def test_what_lies_beyond_the_axes_is_not(model: str, duration: float, exceeded: float) -> None:
    assert latency(model, exceeded, duration) > LIMIT_S_PER_TOKEN
