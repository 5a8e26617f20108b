"""Find a system's capacity by bisection of the request rate, one search for each seed.

A search is a pure function of the latencies at the rates that it asks for, and asks for the same
rates whenever it is repeated. So nothing but the points is stored: an interrupted search goes on
where it was, and the report repeats a finished one from the store. It asks first for a figure's own
rates: those are near the capacity, and of the figure's seed they have been run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from bench.claims.intervals import Mean, geometric_mean
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.point.spec import PointSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_TOLERANCE = 0.02
TOLERANCES = (1e-3, 0.5)
# From rate to rate until the limit lies between two of them: from one rate that may lie anywhere,
# and from the end of a figure's rates, which lie about the capacity.
GROWTH, GROWTH_BEYOND = 2.0, 1.25
FEWEST_REQUESTS, MOST_REQUESTS = 4, 1_000_000  # of a trace whose latency means something
_DIGITS = 6  # of a rate: as many as a point's name shows
LATENCY = "mean_normalized_latency_s"


@dataclass(frozen=True)
class Target:
    """What is looked for: the rate at `limit_s_per_token`, to a relative `tolerance`."""

    limit_s_per_token: float = LIMIT_S_PER_TOKEN
    tolerance: float = DEFAULT_TOLERANCE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit_s_per_token) and self.limit_s_per_token > 0):
            raise UserError(f"limit must be positive, got {self.limit_s_per_token:g} s/token")
        low, high = TOLERANCES
        if not low <= self.tolerance <= high:
            raise UserError(
                f"tolerance must be from {low:g} to {high:g} (a fraction of the rate), "
                f"got {self.tolerance:g}"
            )


@dataclass(frozen=True)
class Search:
    """What is looked for: the capacity of `spec`, its rate aside, for its seed and those above.

    `rates` (req/s, rising) are asked for first, from the middle; the others lie between or beyond.
    """

    spec: PointSpec
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.rates, "a search starts from a rate"
        assert all(a < b for a, b in pairwise(self.rates)), f"rates must rise: {self.rates}"

    @classmethod
    def at(cls, spec: PointSpec) -> Search:
        """A search that starts at the rate of `spec`, where nothing better is known."""
        return cls(spec, (spec.rate,))


@dataclass(frozen=True)
class Wanted:
    """The search goes on once the latency at `rate` is known; `left` points are expected yet."""

    rate: float
    left: int


@dataclass(frozen=True)
class Bracket:
    """The search's end: latency is below the limit at `sustained` and not at `exceeded` (req/s).

    `capacity` is where the straight line between the two meets the limit; `probes` are all rates
    asked for, in order, with their latencies.
    """

    sustained: float
    exceeded: float
    capacity: float
    probes: tuple[tuple[float, float], ...]


Probe = tuple[float, float]  # a rate (req/s) and its latency (s/token)


def search(
    rates: Sequence[float],
    latency_at: Callable[[float], float | None],
    *,
    target: Target,
    duration_s: float,
) -> Bracket | Wanted:
    """Bisect until the bracket is as narrow as the tolerance, first among `rates` (req/s, rising).

    `latency_at` gives the mean normalized latency (s/token) at a rate, or None where it is not
    known yet. Raises UserError if no rate of a trace of `duration_s` crosses the limit.
    """
    rates = [_rounded(rate) for rate in rates]
    probes: list[Probe] = []
    low: Probe | None = None
    high: Probe | None = None
    while low is None or high is None or high[0] > low[0] * (1 + target.tolerance):
        inside = [r for r in rates if (not low or r > low[0]) and (not high or r < high[0])]
        rate = _rounded(_next_rate(inside, low, high, growth=_growth(rates)))
        _check_rate(rate, probes, target=target, duration_s=duration_s)
        latency = latency_at(rate)
        if latency is None:
            return Wanted(rate, _points_left(inside, low, high, tolerance=target.tolerance))
        probes.append((rate, latency))
        if latency < target.limit_s_per_token:
            low = (rate, latency)
        else:
            high = (rate, latency)
    share = (target.limit_s_per_token - low[1]) / (high[1] - low[1])
    return Bracket(low[0], high[0], low[0] + share * (high[0] - low[0]), tuple(probes))


def _next_rate(
    inside: Sequence[float], low: Probe | None, high: Probe | None, *, growth: float
) -> float:
    """The middle of the rates that may still matter, then of the bracket, or one beyond its end."""
    if inside:
        return inside[len(inside) // 2]
    if low is None:
        assert high is not None, "a search asks for its own rates first"
        return high[0] / growth
    return low[0] * growth if high is None else math.sqrt(low[0] * high[0])


def _growth(rates: Sequence[float]) -> float:
    return GROWTH if len(rates) == 1 else GROWTH_BEYOND


def _points_left(
    inside: Sequence[float], low: Probe | None, high: Probe | None, *, tolerance: float
) -> int:
    """About how many points a search has yet to ask for."""
    known = [*([low[0]] if low else []), *inside, *([high[0]] if high else [])]
    gaps = len(known) - 1
    gap = math.log(known[-1] / known[0]) / gaps if gaps else math.log(GROWTH)
    return len(inside).bit_length() + max(0, math.ceil(math.log2(gap / math.log1p(tolerance))))


def _rounded(rate: float) -> float:
    return float(f"{rate:.{_DIGITS}g}")


def _check_rate(rate: float, probes: Sequence[Probe], *, target: Target, duration_s: float) -> None:
    limit = f"{target.limit_s_per_token:g} s/token"
    last = f"even at {probes[-1][0]:g} req/s" if probes else f"where the search starts, {rate:g}"
    if rate * duration_s < FEWEST_REQUESTS:
        raise UserError(
            f"latency is above {limit} {last}, or there are too few requests to tell: raise "
            "--limit, --rate or --duration"
        )
    if rate * duration_s > MOST_REQUESTS:
        raise UserError(
            f"latency is below {limit} {last}, or there are too many requests to tell: lower "
            "--limit, --rate or --duration"
        )


class ResultStore(Protocol):
    """What repeating a search needs of `bench.results.store.Store`."""

    def load(self, specs: Iterable[PointSpec]) -> pd.DataFrame:
        """One row per sound result."""
        ...


@dataclass(frozen=True)
class Found:
    """The capacity of `spec`, its rate aside, over seeds, in req/s."""

    spec: PointSpec
    brackets: Mapping[int, Bracket]  # by seed
    devices: tuple[str, ...] = ()
    stale: bool = False

    @property
    def mean(self) -> Mean:
        """The geometric mean over seeds."""
        return geometric_mean([bracket.capacity for bracket in self.brackets.values()])

    @property
    def specs(self) -> list[PointSpec]:
        """The points that stand behind it."""
        return [
            probe_spec(self.spec, seed, rate)
            for seed, bracket in self.brackets.items()
            for rate, _ in bracket.probes
        ]


def probe_spec(spec: PointSpec, seed: int, rate: float) -> PointSpec:
    """The point that a search for `spec` asks for at `rate`."""
    return replace(spec, seed=seed, rate=rate)


@dataclass
class Reader:
    """Latencies from the store, each read once; remembers what stands behind them."""

    store: ResultStore
    spec: PointSpec
    seed: int
    devices: dict[str, None] = field(default_factory=dict)
    stale: bool = False

    def __call__(self, rate: float) -> float | None:
        """The latency in s/token; None where there is no sound result."""
        rows = self.store.load([probe_spec(self.spec, self.seed, rate)])
        if rows.empty or LATENCY not in rows or rows[LATENCY].isna().any():
            return None
        row = rows.iloc[0]
        self.stale = self.stale or bool(row["stale"])
        if "device" in row:
            self.devices[str(row["device"])] = None
        return float(row[LATENCY])


def stored_search(
    store: ResultStore, wanted: Search, *, target: Target | None = None, most_seeds: int = 64
) -> Found | None:
    """Repeat a search from the store, for as many seeds as are finished.

    Seeds rise by one from the spec's own. None where not even the first is finished.
    """
    spec = wanted.spec
    readers: dict[int, Reader] = {}
    brackets: dict[int, Bracket] = {}
    target = target or Target()
    for seed in range(spec.seed, spec.seed + most_seeds):
        reader = Reader(store, spec, seed)
        try:
            result = search(wanted.rates, reader, target=target, duration_s=spec.duration)
        except UserError:  # no rate crosses the limit: there is no capacity to report
            break
        if isinstance(result, Wanted):
            break
        readers[seed], brackets[seed] = reader, result
    if not brackets:
        return None
    devices = dict.fromkeys(name for reader in readers.values() for name in reader.devices)
    stale = any(reader.stale for reader in readers.values())
    return Found(spec, brackets, tuple(devices), stale)
