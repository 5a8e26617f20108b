"""What the claims measure: each function takes the tables and a claim's arguments.

A measure never works from part of a curve: if a point that it needs is missing or corrupt, or has
not the metric that it needs, it names the point and gives no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from bench.claims.capacity_search import LATENCY
from bench.experiments.capacity import Bound, Estimate
from bench.experiments.computed import preemption_costs
from bench.experiments.model import Claim
from bench.experiments.tables import COMPLETE, STALE, PanelTable, PointStore
from bench.results.measurements import ratio_frame
from engines.core.config import find_model
from engines.sim.profile import load_profile
from engines.sim.slots import slots_from_memory

T = TypeVar("T")
Tables = Mapping[str, PanelTable]


@dataclass(frozen=True)
class Measurement:
    """Our number for a claim, or why there is none.

    `absent` are lines that name points without a sound result or without the number that is
    needed of them, `num_points` counts the points needed. `stale` says that some were made by other
    sources than the present ones. `interval` is the mean's 95 % confidence interval over seeds.
    `method` says how capacities were found: "searched" by bisection, or read off the "curve" of the
    figure's rates. `backend` is where it was measured if that is not the tables' backend.
    """

    estimate: Estimate | None
    num_points: int = 0
    absent: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    stale: bool = False
    interval: tuple[float, float] | None = None
    method: str = ""
    backend: str = ""


Measure = Callable[..., Measurement]


def mean_metric(tables: Tables, *, panel: str, system: str, metrics: Sequence[str]) -> Measurement:
    """The sum of metrics at a system's only point in a panel."""
    table = tables[panel]
    rows = table.curve(table.curve_of(system))
    assert len(rows) == 1, f"{system} has {len(rows)} points in {panel}, expected one"
    found = _measurement(panel, rows, metrics)
    if found.absent:
        return found
    return replace(found, estimate=Estimate(float(rows[list(metrics)].iloc[0].sum())))


def capacity_ratio(tables: Tables, *, panel: str, over: str, under: str) -> Measurement:
    """The capacity of one system over another's in the same panel."""
    table = tables[panel]
    indices = [table.curve_of(over), table.curve_of(under)]
    found = _measurement(panel, pd.concat([table.curve(index) for index in indices]))
    if found.absent:
        return found
    upper, lower = (table.capacity(index) for index in indices)
    assert upper is not None, f"complete curve of {over} in {panel} has no capacity"
    assert lower is not None, f"complete curve of {under} in {panel} has no capacity"
    return replace(found, estimate=upper.over(lower), method="curve")


def largest_capacity_ratio(
    tables: Tables, *, panels: Sequence[str], over: str, under: str
) -> Measurement:
    """The largest of the ratios over several panels."""
    found = [capacity_ratio(tables, panel=panel, over=over, under=under) for panel in panels]
    estimates = [m.estimate for m in found if m.estimate is not None]
    largest = max(estimates, key=lambda e: e.value) if len(estimates) == len(found) else None
    if largest is not None and any(e.bound is Bound.AT_LEAST for e in estimates):
        largest = Estimate(largest.value, Bound.AT_LEAST)
    return Measurement(
        largest,
        num_points=sum(m.num_points for m in found),
        absent=tuple(line for m in found for line in m.absent),
        devices=_unique(device for m in found for device in m.devices),
        seeds=_unique(seed for m in found for seed in m.seeds),
        stale=any(m.stale for m in found),
        method="curve",
    )


def best_block_size(tables: Tables, *, panel: str, count: int, end: str) -> Measurement:
    """The smallest or the largest of the `count` block sizes with the lowest latencies."""
    rows = tables[panel].frame
    found = _measurement(panel, rows)
    if found.absent:
        return found
    best = rows.nsmallest(count, LATENCY)["block_size"]
    return replace(found, estimate=Estimate(float(best.min() if end == "smallest" else best.max())))


def largest_latency_ratio(
    tables: Tables, *, over: str, under: str, block_sizes: Sequence[int]
) -> Measurement:
    """The largest ratio of two panels' latencies at one of these block sizes."""
    found = _join([_measurement(panel, tables[panel].frame) for panel in (over, under)])
    if found.absent:
        return found
    upper, lower = (tables[panel].frame.set_index("block_size")[LATENCY] for panel in (over, under))
    ratios = upper / lower
    ratios = ratios[ratios.index.isin(block_sizes)]  # in miniature there are no large ones
    return replace(found, estimate=Estimate(float(ratios.max())))


def largest_cost_ratio(
    tables: Tables,
    *,
    block_sizes: Sequence[int],
    context_len: int,
    model: str,
    device_profile: str,
) -> Measurement:
    """The largest ratio of what recomputing a sequence costs to what swapping it does."""
    costs = preemption_costs(
        block_sizes, context_len=context_len, model=model, device_profile=device_profile
    )
    ratios = costs["recompute_s"] / (costs["swap_out_s"] + costs["swap_in_s"])
    return Measurement(Estimate(float(ratios.max())), devices=(f"1x {device_profile}",))


def kv_slots(
    tables: Tables, *, model: str, device_profile: str, tensor_parallel: int
) -> Measurement:
    """KV slots left by the model's parameters and activations; needs no run."""
    slots = slots_from_memory(find_model(model), load_profile(device_profile), tensor_parallel)
    device = f"{tensor_parallel}x {device_profile}"
    return Measurement(Estimate(float(slots)), devices=(device,))


def kernel_ratio(tables: Tables) -> Measurement:
    """What tables say of kernels: nothing, a device has to be measured (`measured_kernels`)."""
    return Measurement(None, num_points=1, absent=("no kernel was measured",))


def measured_kernels(store: PointStore, claim: Claim, *, backend: str) -> Measurement | None:
    """The largest ratio of paged to contiguous attention, if a device was measured."""
    if claim.measure != kernel_ratio.__name__:
        return None
    found = store.kernels("attention", backend=backend)
    if found is None:
        return None
    ratios = ratio_frame(found)["paged_over_contiguous"]
    return Measurement(
        Estimate(float(ratios.max())),
        num_points=len(ratios),
        devices=(str(found["device"]),),
        backend=str(found["backend"]),
    )


MEASURES: dict[str, Measure] = {
    function.__name__: function
    for function in (
        mean_metric,
        capacity_ratio,
        largest_capacity_ratio,
        best_block_size,
        largest_latency_ratio,
        largest_cost_ratio,
        kv_slots,
        kernel_ratio,
    )
}


def _measurement(
    panel: str, rows: pd.DataFrame, metrics: Sequence[str] = (LATENCY,)
) -> Measurement:
    """What a number from `metrics` of these points rests on, without the number."""
    is_sound = rows["state"].isin([COMPLETE, STALE])
    sound, absent = rows[is_sound], rows[~is_sound]
    known = sound.reindex(columns=list(metrics)).notna().all(axis=1)
    devices = sound.get("device", pd.Series(dtype=object)).dropna()
    lines = [describe_absent(panel, row) for _, row in absent.iterrows()]
    for _, row in sound[~known].iterrows():
        lines.append(f"{describe_point(panel, row)} has no {' or '.join(metrics)}")
    return Measurement(
        None,
        num_points=len(rows),
        absent=tuple(lines),
        devices=_unique(str(device) for device in devices),
        seeds=_unique(int(seed) for seed in sound["seed"]),
        stale=bool((sound["state"] == STALE).any()),
    )


def _join(found: Sequence[Measurement]) -> Measurement:
    """What several measurements rest on together, without a number."""
    return Measurement(
        None,
        num_points=sum(m.num_points for m in found),
        absent=tuple(line for m in found for line in m.absent),
        devices=_unique(device for m in found for device in m.devices),
        seeds=_unique(seed for m in found for seed in m.seeds),
        stale=any(m.stale for m in found),
    )


def describe_point(panel: str, row: pd.Series[Any]) -> str:
    """A point in a few words."""
    return f"{panel}: {row['system']} at {row['rate']:g} req/s"


def describe_absent(panel: str, row: pd.Series[Any]) -> str:
    """One line for a point that holds no sound result."""
    reason = f" ({row['reason']})" if row["reason"] else ""
    return f"{describe_point(panel, row)} is {row['state']}{reason}"


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
