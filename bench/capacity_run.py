"""Run capacity searches: many systems and seeds side by side, their points through the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.capacity_search import (
    Found,
    Reader,
    Target,
    Wanted,
    probe_spec,
    search,
    stored_search,
)
from bench.point import PointSpec
from bench.pool import Place
from bench.progress import Display
from bench.results import Store
from bench.runner import Summary, run_points


@dataclass(frozen=True)
class Sought:
    """What became of searches: the finished ones by spec, and how the points went."""

    found: Mapping[PointSpec, Found]
    summaries: tuple[Summary, ...]

    @property
    def failed(self) -> Summary | None:
        """The round that ended the searches early, if one did."""
        return next((s for s in self.summaries if s.exit_status), None)


def run_searches(
    store: Store,
    specs: Sequence[PointSpec],
    *,
    target: Target,
    seeds: int,
    place: Place | None = None,
    display: Display | None = None,
) -> Sought:
    """Search every spec with every seed, all searches' next points side by side.

    Ends with the first round in which a point fails or that Ctrl-C interrupts. Raises UserError
    if no rate crosses the limit, or if the store cannot be written.
    """
    display = display or Display()
    known: dict[PointSpec, float] = {}
    summaries: list[Summary] = []
    while wanted := _wanted(specs, known, target=target, seeds=seeds):
        if summaries:
            display.note(f"round {len(summaries) + 1}: {len(wanted)} searches go on")
        summaries.append(run_points(store, wanted, place=place, display=display))
        if summaries[-1].exit_status:
            return Sought({}, tuple(summaries))
        for spec in wanted:
            known[spec] = _latency(store, spec)
    found = {spec: _found(store, spec, target=target, seeds=seeds) for spec in specs}
    return Sought(found, tuple(summaries))


def _wanted(
    specs: Sequence[PointSpec], known: Mapping[PointSpec, float], *, target: Target, seeds: int
) -> list[PointSpec]:
    """The next point of every search that is not finished."""
    wanted: dict[PointSpec, None] = {}
    for spec in specs:
        for seed in range(spec.seed, spec.seed + seeds):
            result = search(
                spec.rate,
                lambda rate, spec=spec, seed=seed: known.get(probe_spec(spec, seed, rate)),  # type: ignore[misc]
                target=target,
                duration_s=spec.duration,
            )
            if isinstance(result, Wanted):
                wanted[probe_spec(spec, seed, result.rate)] = None
    return list(wanted)


def _latency(store: Store, spec: PointSpec) -> float:
    latency = Reader(store, spec, spec.seed)(spec.rate)
    assert latency is not None, f"{spec.slug} has run but gives no latency"
    return latency


def _found(store: Store, spec: PointSpec, *, target: Target, seeds: int) -> Found:
    found = stored_search(store, spec, target=target, most_seeds=seeds)
    assert found is not None, f"the search of {spec.slug} has ended without a result"
    return found
