"""Measures: numbers from whole curves only, ratios with their bounds, best block sizes."""

from dataclasses import replace

import pytest
from capacity_fakes import DEVICE, fill, put
from partial_fakes import PartialStore, points_of, sound

from bench.claims.evidence import Evidence
from bench.claims.measures import MEASURES, capacity_ratio, largest_cost_ratio
from bench.experiments import registry
from bench.experiments.capacity import Bound
from bench.experiments.tables import Choice
from bench.results.store import Store

SHAREGPT = "fig12-13b-sharegpt"
RATIO = {"over": "astra", "under": "orca-oracle"}
SWAPPING = {"over": "fig19-b-recompute", "under": "fig19-b-swap"}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def evidence_by_block_size(panels: dict[str, dict[int, float]]) -> Evidence:
    """Latencies of panels by block size; points of other sizes are missing."""
    latency = {
        spec: sizes[spec.block_size]
        for name, sizes in panels.items()
        for spec in points_of(name, Choice())
        if spec.block_size in sizes
    }

    def metrics(spec):
        return {**sound(spec), "mean_normalized_latency_s": latency[spec]}

    return Evidence(PartialStore(frozenset(latency), metrics), Choice())


def sizes_of(panel: str) -> list[int]:
    return [spec.block_size for spec in points_of(panel, Choice())]


def test_ratio_of_capacities(store):
    fill(store, SHAREGPT)
    found = capacity_ratio(Evidence(store, Choice()), panel=SHAREGPT, **RATIO)
    assert found.estimate.bound is Bound.EXACT
    assert found.estimate.value == pytest.approx(2.0, rel=0.05)
    assert (found.devices, found.method) == ((DEVICE,), "curve")


def test_a_missing_point_leaves_the_ratio_without_a_number(store):
    for spec in registry.find(SHAREGPT).figures[0].points():
        if not (spec.system == "astra" and spec.rate == 1.5):
            put(store, spec)
    found = capacity_ratio(Evidence(store, Choice()), panel=SHAREGPT, **RATIO)
    assert found.estimate is None
    assert found.absent == (f"{SHAREGPT}: astra at 1.5 req/s is missing",)


def test_largest_ratio_needs_every_panel(store):
    fill(store, SHAREGPT)
    panels = (SHAREGPT, "fig12-66b-sharegpt")
    evidence = Evidence(store, Choice())
    assert capacity_ratio(evidence, panels=panels, over="astra", under="ft").estimate is None


@pytest.mark.parametrize(("end", "expected"), [("smallest", 8), ("largest", 32)])
def test_ends_of_the_best_sizes(end, expected):
    panel = "fig18-b-alpaca"
    latencies = dict.fromkeys(sizes_of(panel), 0.9) | {8: 0.1, 32: 0.2}
    evidence = evidence_by_block_size({panel: latencies})
    found = MEASURES["best_block_size"](evidence, panel=panel, count=2, end=end)
    assert found.estimate.value == expected
    assert found.num_points == len(latencies)


def test_largest_ratio_is_over_the_sizes_asked_for():
    sizes = sizes_of(SWAPPING["over"])
    upper, lower = dict.fromkeys(sizes, 0.1), dict.fromkeys(sizes, 0.1)
    upper |= {16: 0.22, 256: 0.9}
    lower |= {16: 0.2}
    names = dict(zip(SWAPPING.values(), (upper, lower), strict=True))
    measure, evidence = MEASURES["largest_latency_ratio"], evidence_by_block_size(names)
    few = measure(evidence, **SWAPPING, block_sizes=(16, 64))
    everything = measure(evidence, **SWAPPING, block_sizes=sizes)
    assert few.estimate.value == pytest.approx(1.1)
    assert everything.estimate.value == pytest.approx(9.0)
    assert everything.num_points == 2 * len(sizes)


def test_a_missing_point_gives_no_number():
    sizes = dict.fromkeys(sizes_of(SWAPPING["over"]), 0.1)
    part = {size: latency for size, latency in sizes.items() if size != 16}
    evidence = evidence_by_block_size(dict(zip(SWAPPING.values(), (sizes, part), strict=True)))
    found = MEASURES["largest_latency_ratio"](evidence, **SWAPPING, block_sizes=(64,))
    assert found.estimate is None
    assert len(found.absent) == 1


def test_a_point_without_a_latency_is_named():
    claim = registry.FIGURES["fig18-b"].claims[0]
    panel = claim.args["panel"]
    evidence = evidence_by_block_size({panel: dict.fromkeys(sizes_of(panel), float("nan"))})
    found = MEASURES[claim.measure](evidence, **claim.args)
    assert found.estimate is None
    assert len(found.absent) == found.num_points
    assert "has no mean_normalized_latency_s" in found.absent[0]


def test_cost_ratio_needs_no_results():
    (claim,) = registry.FIGURES["fig19-a"].claims
    evidence = Evidence(PartialStore(frozenset()), Choice())
    smaller = replace(claim, args={**claim.args, "block_sizes": (1,)})
    few, everything = (largest_cost_ratio(evidence, **c.args) for c in (smaller, claim))
    assert few.estimate.value < everything.estimate.value
