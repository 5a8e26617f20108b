"""The simulation against the paper's numbers, with shipped statistics and with real lengths."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import pytest
from places import SHARED

from bench.experiments.registry import FIGURES
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines.core.models import find_model
from engines.sim.profile import load_profile
from engines.sim.slots import slots_from_memory

REAL_LENGTHS = SHARED / "data" / "sharegpt_lengths.csv.gz"
SHIPPED = "shipped statistics"
REAL = "real lengths"

SOURCES = [
    SHIPPED,
    pytest.param(
        REAL,
        marks=[
            pytest.mark.real_data,
            pytest.mark.skipif(
                not REAL_LENGTHS.is_file(), reason="no real lengths beside the project"
            ),
        ],
    ),
]

FIG2 = {
    "orca-max": {"token": 20.4, "reservation": 13.3, "internal": 57.3, "external": 8.9},
    "orca-pow2": {"token": 26.8, "reservation": 17.9, "internal": 13.6, "external": 41.6},
    "orca-oracle": {"token": 38.2, "reservation": 25.2, "internal": 0.0, "external": 36.6},
    "astra": {"token": 96.3},
}


def metrics_of(spec: PointSpec) -> dict[str, Any]:
    return run_point(spec).metrics


@cache
def panel_metrics(figure: str, panel: str, source: str) -> dict[str, dict[str, Any]]:
    (chosen,) = [p for p in FIGURES[figure].panels if p.name == panel]
    lengths = str(REAL_LENGTHS) if source == REAL else None
    specs = chosen.points(lengths=lengths)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return {s.system: m for s, m in zip(specs, pool.map(metrics_of, specs), strict=True)}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("system", FIG2)
def test_figure_2_shares_are_within_a_percentage_point(system: str, source: str) -> None:
    shares = panel_metrics("fig2", "fig2-13b-sharegpt", source)[system]["kv_pct"]
    for category, paper in FIG2[system].items():
        assert shares[category] == pytest.approx(paper, abs=1.0), category
    if system == "astra":
        assert 100 - shares["token"] == pytest.approx(3.7, abs=1.0)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("system", "paper", "tolerance"),
    [
        ("orca-max", 7.00, 0.02),
        ("orca-pow2", 9.81, 0.02),
        ("orca-oracle", 13.62, 0.02),
        ("astra", 30.42, 0.10),
    ],
)
def test_figure_13_batched_requests_on_sharegpt(
    system: str, paper: float, tolerance: float, source: str
) -> None:
    found = panel_metrics("fig13", "fig13-13b-sharegpt", source)[system]
    assert found["mean_running_requests"] == pytest.approx(paper, rel=tolerance)


@pytest.mark.parametrize(
    ("system", "paper"), [("orca-max", 7.00), ("orca-pow2", 43.24), ("orca-oracle", 72.75)]
)
def test_figure_13_batched_requests_on_alpaca(system: str, paper: float) -> None:
    found = panel_metrics("fig13", "fig13-13b-alpaca", SHIPPED)[system]
    assert found["mean_running_requests"] == pytest.approx(paper, rel=0.04)


def test_slots_from_memory_agree_with_table_1() -> None:
    slots = slots_from_memory(find_model("opt-13b"), load_profile("a100-40gb"))
    assert slots == pytest.approx(15_700, rel=0.03)
