"""Run capacity searches: many systems and seeds side by side, their points through the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.claims.capacity_search import (
    Found,
    Reader,
    Search,
    Target,
    Wanted,
    probe_spec,
    search,
    stored_search,
)
from bench.point.spec import PointSpec
from bench.progress import Display, clock
from bench.results.store import Store
from bench.sweep.place import Place
from bench.sweep.plan import weight
from bench.sweep.runner import Summary, run_points


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
    searches: Sequence[Search],
    *,
    target: Target,
    seeds: int,
    place: Place | None = None,
    display: Display | None = None,
) -> Sought:
    """Run every search with every seed, all searches' next points side by side.

    Ends with the first round in which a point fails or that Ctrl-C interrupts. Raises UserError
    if no rate crosses the limit, or if the store cannot be written.
    """
    display = display or Display()
    known: dict[PointSpec, float] = {}
    summaries: list[Summary] = []
    pace = _Pace()
    while wanted := _wanted(searches, known, target=target, seeds=seeds):
        display.note(pace.tell(len(summaries) + 1, wanted))
        summaries.append(run_points(store, wanted, place=place, display=display))
        pace.add(summaries[-1])
        if summaries[-1].exit_status:
            return Sought({}, tuple(summaries))
        for spec in wanted:
            known[spec] = _latency(store, spec)
    found = {one.spec: _found(store, one, target=target, seeds=seeds) for one in searches}
    return Sought(found, tuple(summaries))


@dataclass
class _Pace:
    """How fast work goes, for the time that all rounds together still take."""

    work: float = 0.0
    elapsed_s: float = 0.0

    def add(self, summary: Summary) -> None:
        """Count a round; points that were there already took no time."""
        self.work += sum(weight(spec) for spec in summary.done)
        self.elapsed_s += summary.elapsed_s

    def tell(self, number: int, wanted: Mapping[PointSpec, int]) -> str:
        """One line on a round that is about to start: `wanted` are its points, with those left."""
        points = sum(wanted.values())
        line = f"round {number}: {len(wanted)} searches, about {points} points left"
        if not self.work:
            return line
        work = sum(count * weight(spec) for spec, count in wanted.items())
        return f"{line}, {clock(self.elapsed_s * work / self.work)} in all"


def _wanted(
    searches: Sequence[Search], known: Mapping[PointSpec, float], *, target: Target, seeds: int
) -> dict[PointSpec, int]:
    """The next point of every search that is not finished, and how many it still needs."""
    wanted: dict[PointSpec, int] = {}
    for one in searches:
        spec = one.spec
        for seed in range(spec.seed, spec.seed + seeds):
            result = search(
                one.rates,
                lambda rate, spec=spec, seed=seed: known.get(probe_spec(spec, seed, rate)),  # type: ignore[misc]
                target=target,
                duration_s=spec.duration,
            )
            if isinstance(result, Wanted):
                wanted[probe_spec(spec, seed, result.rate)] = result.left
    return wanted


def _latency(store: Store, spec: PointSpec) -> float:
    latency = Reader(store, spec, spec.seed)(spec.rate)
    assert latency is not None, f"{spec.slug} has run but gives no latency"
    return latency


def _found(store: Store, one: Search, *, target: Target, seeds: int) -> Found:
    found = stored_search(store, one, target=target, most_seeds=seeds)
    assert found is not None, f"the search of {one.spec.slug} has ended without a result"
    return found
