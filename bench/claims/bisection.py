"""Find a system's capacity by bisection of the request rate.

A search is a pure function of the latencies at the rates that it asks for, and asks for the same
rates whenever it is repeated. So nothing but the points is stored: an interrupted search continues
where it was, and the report repeats a finished one from the store. It asks first for a figure's own
rates: those are near the capacity, and of the figure's seed they have been run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.point.spec import PointSpec
from engines.core.errors import UserError

DEFAULT_TOLERANCE = 0.02
TOLERANCES = (1e-3, 0.5)
# The step from rate to rate until two of them enclose the limit: from a single rate, which may be
# far off; from the end of a figure's rates, which lie about the capacity; and from another seed's.
GROWTH, GROWTH_BEYOND, GROWTH_NEARBY = 2.0, 1.25, 1.04
FEWEST_REQUESTS, MOST_REQUESTS = 4, 1_000_000  # of a trace whose latency means something
_DIGITS = 6  # of a rate: as many as a point's name shows

Probe = tuple[float, float]  # a rate (req/s) and its latency (s/token)


@dataclass(frozen=True)
class Target:
    """The latency whose rate is searched for, and how closely the rate is enclosed (relative)."""

    limit_s_per_token: float = LIMIT_S_PER_TOKEN
    tolerance: float = DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Search:
    """A search for the capacity of `spec`, its rate aside, for its seed and those above.

    `rates` (req/s, rising) are asked for first, from the middle; the others lie between or beyond.
    """

    spec: PointSpec
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.rates, "a search starts from a rate"
        assert all(a < b for a, b in pairwise(self.rates)), f"rates must rise: {self.rates}"


@dataclass(frozen=True)
class Wanted:
    """The search needs the latency at `rate`; about `left` points are still to come."""

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
    probes: tuple[Probe, ...]


def bisect(
    rates: Sequence[float],
    latency_at: Callable[[float], float | None],
    *,
    target: Target,
    duration_s: float,
    growth: float | None = None,
) -> Bracket | Wanted:
    """Bisect until the bracket is as narrow as the tolerance, first among `rates` (req/s, rising).

    Beyond these the rate grows or falls by the factor `growth` and then by larger ones; by default
    it depends on the number of rates. `latency_at` gives the mean normalized latency (s/token) at a
    rate, or None where it is not known yet. Raises UserError if no rate of a trace of `duration_s`
    crosses the limit.
    """
    rates = [_rounded(rate) for rate in rates]
    growth = growth or (GROWTH if len(rates) == 1 else GROWTH_BEYOND)
    probes: list[Probe] = []
    low: Probe | None = None
    high: Probe | None = None
    while low is None or high is None or high[0] > low[0] * (1 + target.tolerance):
        inside = [r for r in rates if (not low or r > low[0]) and (not high or r < high[0])]
        rate = _rounded(_next_rate(inside, low, high, growth=growth))
        if not inside:
            growth = min(growth**2, GROWTH)
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
    """The middle of the given rates inside the bracket, then of the bracket, or one beyond it."""
    if inside:
        return inside[len(inside) // 2]
    if low is None:
        assert high is not None, "a search asks for its own rates first"
        return high[0] / growth
    return low[0] * growth if high is None else math.sqrt(low[0] * high[0])


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
    requests = rate * duration_s
    if FEWEST_REQUESTS <= requests <= MOST_REQUESTS:
        return
    few = requests < FEWEST_REQUESTS
    last = f"even at {probes[-1][0]:g} req/s" if probes else f"where the search starts, {rate:g}"
    raise UserError(
        f"latency is {'above' if few else 'below'} {target.limit_s_per_token:g} s/token {last}, or "
        f"there are too {'few' if few else 'many'} requests to tell: {'raise' if few else 'lower'} "
        "--limit, --rate or --duration"
    )
