"""A system's capacity: the request rate at which mean normalized latency reaches the limit.

The paper reads capacities off Figure 12, whose axis ends at 1 s/token. Between the two measured
rates that enclose the limit the curve is taken as straight, as it is drawn. Beyond saturation that
is nearly so: the queue at the end of a trace, and with it the mean latency, grows in proportion to
the rate in excess. Where the bend lies inside the interval the true curve runs below the straight
line, so the result errs to the low side, and by less than the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

LATENCY = "mean_normalized_latency_s"
LIMIT_S_PER_TOKEN = 1.0


class Bound(Enum):
    """What a number says about the true value; the value is its sign in print."""

    EXACT = ""
    AT_LEAST = "≥ "
    AT_MOST = "≤ "

    @property
    def opposite(self) -> Bound:
        """The bound on the inverse."""
        return {Bound.AT_LEAST: Bound.AT_MOST, Bound.AT_MOST: Bound.AT_LEAST}.get(self, self)


@dataclass(frozen=True)
class Estimate:
    """A number and whether it is exact or only bounds the true value."""

    value: float
    bound: Bound = Bound.EXACT

    def over(self, other: Estimate) -> Estimate | None:
        """The ratio to `other`; None where the two bounds leave it open on both sides."""
        sides = {self.bound, other.bound.opposite} - {Bound.EXACT}
        if len(sides) > 1:
            return None
        return Estimate(self.value / other.value, sides.pop() if sides else Bound.EXACT)

    def __str__(self) -> str:
        return f"{self.bound.value}{self.value:.3g}"


def capacity(
    rates: Sequence[float],
    latencies: Sequence[float],
    *,
    limit_s_per_token: float = LIMIT_S_PER_TOKEN,
) -> Estimate:
    """The rate (req/s) at which the curve first reaches the limit.

    `rates` rise; `latencies` are mean normalized latencies in s/token. A curve that stays below
    the limit gives its last rate as a lower bound; one that starts above it gives its first rate
    as an upper bound.
    """
    assert len(rates) == len(latencies) > 0, "a curve needs a latency for each of its rates"
    assert all(a < b for a, b in pairwise(rates)), f"rates must rise: {list(rates)}"
    assert all(math.isfinite(y) and y > 0 for y in latencies), "latencies must be positive"
    if latencies[0] >= limit_s_per_token:
        return Estimate(rates[0], Bound.AT_MOST)
    for (x0, y0), (x1, y1) in pairwise(zip(rates, latencies, strict=True)):
        if y1 >= limit_s_per_token:
            share = (limit_s_per_token - y0) / (y1 - y0)
            return Estimate(x0 + share * (x1 - x0))
    return Estimate(rates[-1], Bound.AT_LEAST)
