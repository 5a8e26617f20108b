"""Means over seeds with confidence intervals, after Student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
_BISECTIONS = 60  # of a quarter turn: far below a double's precision


@dataclass(frozen=True)
class Mean:
    """A mean over `count` independent values; `interval` is None for a single one."""

    value: float
    interval: tuple[float, float] | None
    count: int


def geometric_mean(values: Sequence[float]) -> Mean:
    """The geometric mean of positive values, with the two-sided t-interval of their logarithms.

    Rates and their ratios vary in proportion: so the mean of ratios is the ratio of the means,
    and no interval reaches below zero.
    """
    assert values, "a mean needs values"
    assert min(values) > 0, f"values must be positive, got {min(values)}"
    if len(values) == 1:
        return Mean(values[0], None, 1)
    logs = [math.log(value) for value in values]
    centre = fmean(logs)
    half = t_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Mean(math.exp(centre), (math.exp(centre - half), math.exp(centre + half)), len(logs))


def t_quantile(degrees: int) -> float:
    """The t that |T| exceeds with probability 1 - CONFIDENCE, for whole degrees of freedom.

    Inverts the closed form of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4),
    which rises with the angle atan(t / sqrt(degrees)).
    """
    assert degrees >= 1, f"degrees of freedom must be at least 1, got {degrees}"
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _within(middle, degrees) > CONFIDENCE else (middle, high)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """P(|T| < t) for t = sqrt(degrees) * tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
