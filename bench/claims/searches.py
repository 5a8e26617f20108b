"""Capacity searches over many systems and seeds: run point by point, or repeated from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count, islice
from typing import Any

import pandas as pd

from bench.claims.bisection import GROWTH_NEARBY, Bracket, Search, Target, Wanted, bisect
from bench.claims.intervals import Mean, geometric_mean
from bench.experiments.capacity import LATENCY
from bench.point.spec import PointSpec
from bench.progress import Display, clock
from bench.results.store import Store
from bench.sweep.place import Place
from bench.sweep.plan import weight
from bench.sweep.runner import Summary, run_points
from engines.core.errors import UserError

MOST_SEEDS = 64


@dataclass(frozen=True)
class Found:
    """The capacity of `spec`, its rate aside, by seed (req/s)."""

    spec: PointSpec
    brackets: Mapping[int, Bracket]
    devices: tuple[str, ...] = ()
    stale: bool = False

    @property
    def mean(self) -> Mean:
        """The geometric mean over seeds."""
        return geometric_mean([bracket.capacity for bracket in self.brackets.values()])

    @property
    def specs(self) -> list[PointSpec]:
        """The points behind it."""
        return [
            probe_spec(self.spec, seed, rate)
            for seed, bracket in self.brackets.items()
            for rate, _ in bracket.probes
        ]

    def over(self, other: Found) -> dict[int, float]:
        """The ratio of the two capacities for each seed that both have: the same trace for both."""
        return {
            seed: bracket.capacity / other.brackets[seed].capacity
            for seed, bracket in self.brackets.items()
            if seed in other.brackets
        }


@dataclass(frozen=True)
class SearchRun:
    """The finished searches, and how each round of points went."""

    found: Mapping[Search, Found]
    rounds: tuple[Summary, ...]

    @property
    def failed(self) -> Summary | None:
        """The round that ended the searches early, if one did."""
        return next((summary for summary in self.rounds if summary.exit_status), None)


def probe_spec(spec: PointSpec, seed: int, rate: float) -> PointSpec:
    """The point that a search for `spec` asks for."""
    return replace(spec, seed=seed, rate=rate)


def bisect_seeds(
    search: Search, latency_at: Callable[[int, float], float | None], *, target: Target
) -> Iterator[tuple[int, Bracket | Wanted]]:
    """The outcome for the search's seed and for each after it, without end.

    `latency_at` takes a seed and a rate, as `bisect` takes it. Other seeds cross the limit near the
    first one's rate: they start there, and there are none before it is known.
    """
    duration_s, first = search.spec.duration, search.spec.seed
    found = bisect(search.rates, partial(latency_at, first), target=target, duration_s=duration_s)
    yield first, found
    if isinstance(found, Wanted):
        return
    for seed in count(first + 1):
        yield (
            seed,
            bisect(
                (found.sustained, found.exceeded),
                partial(latency_at, seed),
                target=target,
                duration_s=duration_s,
                growth=GROWTH_NEARBY,
            ),
        )


def stored_search(
    store: Store, wanted: Search, *, target: Target | None = None, most_seeds: int = MOST_SEEDS
) -> Found | None:
    """Repeat a search from the store, for as many seeds in a row as are finished; None if none."""
    spec = wanted.spec
    rows: dict[PointSpec, dict[Any, Any]] = {}

    def read(seed: int, rate: float) -> float | None:
        probe = probe_spec(spec, seed, rate)
        for row in store.load([probe]).to_dict("records"):
            if pd.notna(row.get(LATENCY)):
                rows[probe] = row
                return float(row[LATENCY])
        return None

    brackets: dict[int, Bracket] = {}
    with suppress(UserError):  # no rate crosses the limit: there is no capacity to report
        for seed, result in islice(
            bisect_seeds(wanted, read, target=target or Target()), most_seeds
        ):
            if isinstance(result, Wanted):
                break
            brackets[seed] = result
    used = [row for probe, row in rows.items() if probe.seed in brackets]
    devices = dict.fromkeys(str(row["device"]) for row in used if "device" in row)
    stale = any(row["stale"] for row in used)
    return Found(spec, brackets, tuple(devices), stale) if brackets else None


def run_searches(
    store: Store,
    searches: Mapping[Search, int],
    *,
    target: Target,
    place: Place | None = None,
    force: bool | datetime = False,
    display: Display | None = None,
) -> SearchRun:
    """Run every search with so many seeds, all searches' next points side by side.

    `force` is that of `run_points`; a time, since a search asks for what it has run before.
    Ends with the first round in which a point fails or that Ctrl-C interrupts. Raises UserError
    if no rate crosses the limit, or if the store cannot be written.
    """
    display = display or Display()
    known: dict[PointSpec, float] = {}
    rounds: list[Summary] = []
    while wanted := _next_points(searches, known, target=target):
        display.note(_describe_round(rounds, wanted))
        rounds.append(run_points(store, wanted, place=place, force=force, display=display))
        if rounds[-1].exit_status:
            return SearchRun({}, tuple(rounds))
        rows = store.load(wanted).set_index("digest")
        known |= {spec: float(rows[LATENCY].loc[spec.digest]) for spec in wanted}
    found = {}
    for one, seeds in searches.items():
        finished = stored_search(store, one, target=target, most_seeds=seeds)
        assert finished is not None, f"the search of {one.spec.slug} has ended without a result"
        found[one] = finished
    return SearchRun(found, tuple(rounds))


def _next_points(
    searches: Mapping[Search, int], known: Mapping[PointSpec, float], *, target: Target
) -> dict[PointSpec, int]:
    """The next point of every search that is not finished, and how many it still needs."""
    wanted: dict[PointSpec, int] = {}
    for one, seeds in searches.items():

        def read(seed: int, rate: float, spec: PointSpec = one.spec) -> float | None:
            return known.get(probe_spec(spec, seed, rate))

        for seed, result in islice(bisect_seeds(one, read, target=target), seeds):
            if isinstance(result, Wanted):
                wanted[probe_spec(one.spec, seed, result.rate)] = result.left
    return wanted


def _describe_round(rounds: Sequence[Summary], wanted: Mapping[PointSpec, int]) -> str:
    """One line on a round that is about to start; the time left follows from the rounds before."""
    line = (
        f"round {len(rounds) + 1}: {len(wanted)} searches, about {sum(wanted.values())} points left"
    )
    done = sum(weight(spec) for summary in rounds for spec in summary.done)
    if not done:
        return line
    left = sum(count * weight(spec) for spec, count in wanted.items())
    elapsed_s = sum(summary.elapsed_s for summary in rounds)
    return f"{line}, {clock(elapsed_s * left / done)} in all"
