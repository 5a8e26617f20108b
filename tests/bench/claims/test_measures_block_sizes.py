"""Measures over block sizes, on made-up tables."""

from dataclasses import replace

import pandas as pd
import pytest

from bench.claims.measures import MEASURES, largest_cost_ratio
from bench.experiments import registry
from bench.experiments.tables import PanelTable


def table(name: str, latencies: dict[int, float], state: str = "complete") -> PanelTable:
    rows = [
        {
            "system": "astra",
            "rate": 1.5,
            "seed": 0,
            "block_size": size,
            "mean_normalized_latency_s": latency,
            "state": state,
            "reason": "",
            "device": "1x made-up",
        }
        for size, latency in latencies.items()
    ]
    return PanelTable(registry.find_panel(name), pd.DataFrame(rows), ())


@pytest.mark.parametrize(("end", "expected"), [("smallest", 8), ("largest", 32)])
def test_ends_of_the_best_sizes(end, expected):
    tables = {"fig18-b-alpaca": table("fig18-b-alpaca", {4: 0.9, 8: 0.1, 16: 0.5, 32: 0.2})}
    found = MEASURES["best_block_size"](tables, panel="fig18-b-alpaca", count=2, end=end)
    assert found.estimate.value == expected
    assert found.num_points == 4


def test_largest_ratio_is_over_the_sizes_asked_for():
    tables = {
        "fig19-b-recompute": table("fig19-b-recompute", {16: 0.22, 64: 0.1, 256: 9.0}),
        "fig19-b-swap": table("fig19-b-swap", {16: 0.2, 64: 0.2, 256: 1.0}),
    }
    measure = MEASURES["largest_latency_ratio"]
    names = {"over": "fig19-b-recompute", "under": "fig19-b-swap"}
    few = measure(tables, **names, block_sizes=(16, 64))
    everything = measure(tables, **names, block_sizes=(16, 64, 256))
    assert few.estimate.value == pytest.approx(1.1)
    assert everything.estimate.value == pytest.approx(9.0)
    assert everything.num_points == 6


def test_a_missing_point_gives_no_number():
    whole = table("fig19-b-recompute", {16: 0.1, 64: 0.1})
    part = table("fig19-b-swap", {16: 0.1, 64: 0.1})
    part.frame.loc[1, "state"] = "missing"
    tables = {"fig19-b-recompute": whole, "fig19-b-swap": part}
    found = MEASURES["largest_latency_ratio"](
        tables, over="fig19-b-recompute", under="fig19-b-swap", block_sizes=(16,)
    )
    assert found.estimate is None
    assert len(found.absent) == 1


def test_cost_ratio_needs_no_tables():
    (claim,) = registry.FIGURES["fig19-a"].claims
    smaller = replace(claim, args={**claim.args, "block_sizes": (1,)})
    assert (
        largest_cost_ratio({}, **smaller.args).estimate.value
        < largest_cost_ratio({}, **claim.args).estimate.value
    )
