"""What the claims measure: each function takes the evidence and a claim's arguments.

A measure never works from part of a curve: if a point that it needs is missing or corrupt, or has
not the metric that it needs, it names the point and gives no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from bench.claims.evidence import Evidence
from bench.claims.intervals import geometric_mean
from bench.claims.searches import Found
from bench.experiments.capacity import LATENCY, Bound, Estimate
from bench.experiments.computed import preemption_costs
from bench.experiments.tables import COMPLETE, STALE
from engines.core.models import find_model
from engines.sim.profile import load_profile
from engines.sim.slots import slots_from_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """Our number for a claim, or why there is none.

    `absent` are lines that name points without a sound result or without the number that is
    needed of them, `num_points` counts the points needed. `stale` says that some were made by other
    sources than the present ones. `interval` is the mean's 95 % confidence interval over seeds.
    `method` says how capacities were found: "searched" by bisection, or read off the "curve" of the
    figure's rates. `backend` is where it was measured if that is not the choice's backend.
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

    def of(self, value: float) -> Measurement:
        """The same with a number."""
        return replace(self, estimate=Estimate(float(value)))


def mean_metric(
    evidence: Evidence, *, panel: str, system: str, metrics: Sequence[str]
) -> Measurement:
    """The sum of metrics at a system's only point in a panel."""
    rows = _rows(evidence, panel, system)
    assert len(rows) == 1, f"{system} has {len(rows)} points in {panel}, expected one"
    found = _without_number(rows, metrics)
    return found if found.absent else found.of(rows[list(metrics)].iloc[0].sum())


def capacity_ratio(
    evidence: Evidence, *, over: str, under: str, panel: str = "", panels: Sequence[str] = ()
) -> Measurement:
    """The capacity of one system over another's in a panel, or the largest ratio over panels.

    Rests on capacity searches where those of both systems are finished for some seed in every
    panel, else on the figures' curves.
    """
    names = panels or (panel,)
    if searched := _searched_ratio(evidence, names, over, under):
        return searched
    rows = [_rows(evidence, name, system) for name in names for system in (over, under)]
    found = _without_number(pd.concat(rows))
    if found.absent:
        return found
    ratios = []
    for table in map(evidence.panel, names):
        upper, lower = (table.capacity(table.curve_of(system)) for system in (over, under))
        assert upper is not None, f"complete curve of {over} in {table.panel.name} has no capacity"
        assert lower is not None, f"complete curve of {under} in {table.panel.name} has no capacity"
        ratios.append(upper.over(lower))
    return replace(found, estimate=_largest(ratios), method="curve")


def _largest(ratios: Sequence[Estimate | None]) -> Estimate | None:
    """The largest; a lower bound where any is one, and no number where any is none."""
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return None
    largest = max(known, key=lambda ratio: ratio.value)
    lower_bound = any(ratio.bound is Bound.AT_LEAST for ratio in known)
    return replace(largest, bound=Bound.AT_LEAST) if lower_bound else largest


def _searched_ratio(
    evidence: Evidence, panels: Sequence[str], over: str, under: str
) -> Measurement | None:
    """The ratio from capacity searches; None unless both are finished in every panel."""
    sides: list[Found] = []
    ratios: list[dict[int, float]] = []
    for panel in panels:
        upper, lower = evidence.search(panel, over), evidence.search(panel, under)
        if upper is None or lower is None or not (by_seed := upper.over(lower)):
            return None
        ratios.append(by_seed)
        sides += [upper, lower]
    largest = max(ratios, key=lambda by_seed: geometric_mean(list(by_seed.values())).value)
    mean = geometric_mean(list(largest.values()))
    return Measurement(
        Estimate(mean.value),
        num_points=sum(len(side.specs) for side in sides),
        devices=_unique(name for side in sides for name in side.devices),
        seeds=tuple(largest),
        stale=any(side.stale for side in sides),
        interval=mean.interval,
        method="searched",
    )


def best_block_size(evidence: Evidence, *, panel: str, count: int, end: str) -> Measurement:
    """The smallest or the largest of the `count` block sizes with the lowest latencies."""
    rows = _rows(evidence, panel)
    found = _without_number(rows)
    if found.absent:
        return found
    best = rows.nsmallest(count, LATENCY)["block_size"]
    return found.of(best.min() if end == "smallest" else best.max())


def largest_latency_ratio(
    evidence: Evidence, *, over: str, under: str, block_sizes: Sequence[int]
) -> Measurement:
    """The largest ratio of two panels' latencies at one of these block sizes."""
    upper, lower = (_rows(evidence, panel) for panel in (over, under))
    found = _without_number(pd.concat([upper, lower]))
    if found.absent:
        return found
    ratios = upper.set_index("block_size")[LATENCY] / lower.set_index("block_size")[LATENCY]
    ratios = ratios[ratios.index.isin(block_sizes)]  # in miniature there are no large ones
    return found.of(ratios.max())


def largest_cost_ratio(
    evidence: Evidence,
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
    return Measurement(None, devices=(f"1x {device_profile}",)).of(ratios.max())


def kv_slots(
    evidence: Evidence, *, model: str, device_profile: str, tensor_parallel: int
) -> Measurement:
    """KV slots left by the model's parameters and activations; needs no run."""
    slots = slots_from_memory(find_model(model), load_profile(device_profile), tensor_parallel)
    return Measurement(None, devices=(f"{tensor_parallel}x {device_profile}",)).of(slots)


def kernel_ratio(evidence: Evidence) -> Measurement:
    """The largest ratio of paged to contiguous attention, if a device was measured."""
    found = evidence.kernels("attention")
    if found is None:
        return Measurement(None, num_points=1, absent=("no kernel was measured",))
    ratios = pd.DataFrame(found["ratios"])["paged_over_contiguous"]
    return Measurement(
        Estimate(float(ratios.max())),
        num_points=len(ratios),
        devices=(str(found["device"]),),
        backend=str(found["backend"]),
    )


MEASURES: dict[str, Callable[..., Measurement]] = {
    "mean_metric": mean_metric,
    "capacity_ratio": capacity_ratio,
    "best_block_size": best_block_size,
    "largest_latency_ratio": largest_latency_ratio,
    "largest_cost_ratio": largest_cost_ratio,
    "kv_slots": kv_slots,
    "kernel_ratio": kernel_ratio,
}


def _rows(evidence: Evidence, panel: str, system: str = "") -> pd.DataFrame:
    """The rows of a panel, or of its only curve of `system`, with the panel's name."""
    table = evidence.panel(panel)
    rows = table.curve(table.curve_of(system)) if system else table.frame
    return rows.assign(panel=panel)


def _without_number(rows: pd.DataFrame, metrics: Sequence[str] = (LATENCY,)) -> Measurement:
    """What a number from `metrics` of these points rests on, without the number."""
    is_sound = rows["state"].isin([COMPLETE, STALE])
    sound, absent = rows[is_sound], rows[~is_sound]
    known = sound.reindex(columns=list(metrics)).notna().all(axis=1)
    devices = sound.get("device", pd.Series(dtype=object)).dropna()
    lines = [describe_absent(row) for _, row in absent.iterrows()]
    for _, row in sound[~known].iterrows():
        lines.append(f"{_describe_point(row)} has no {' or '.join(metrics)}")
    return Measurement(
        None,
        num_points=len(rows),
        absent=tuple(lines),
        devices=_unique(str(device) for device in devices),
        seeds=_unique(int(seed) for seed in sound["seed"]),
        stale=bool((sound["state"] == STALE).any()),
    )


def describe_absent(row: pd.Series[Any]) -> str:
    """One line for a point of a panel that holds no sound result."""
    reason = f" ({row['reason']})" if row["reason"] else ""
    return f"{_describe_point(row)} is {row['state']}{reason}"


def _describe_point(row: pd.Series[Any]) -> str:
    return f"{row['panel']}: {row['system']} at {row['rate']:g} req/s"


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
