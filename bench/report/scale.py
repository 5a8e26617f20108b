"""A claim as a small picture: the paper's value, what is allowed around it, and ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.claims.verdicts import Row

WIDTH, EDGE = 92.0, 7.0
MARGIN = 0.6  # beyond the allowed band on either side, in widths of the band


@dataclass(frozen=True)
class Scale:
    """Horizontal positions in the picture; `beyond` is the side on which ours lies out, or 0."""

    allowed: tuple[float, float]
    paper: tuple[float, float]
    ours: float
    beyond: int
    interval: tuple[float, float] | None


def scale(row: Row) -> Scale | None:
    """The picture of a row of the verdict table; None without a number of ours."""
    if row["ours"] is None:
        return None
    low, high = row["paper_range"]
    low = 0.0 if math.isinf(low) else low
    allowed = (max(row["allowed"][0], min(low, 0.0)), row["allowed"][1])
    span = (allowed[1] - allowed[0]) or abs(high) * 0.2 or 1.0
    start, end = allowed[0] - MARGIN * span, allowed[1] + MARGIN * span

    def place(value: float) -> float:
        share: float = (value - start) / (end - start)
        return EDGE + min(max(share, 0.0), 1.0) * (WIDTH - 2 * EDGE)

    interval = row["interval"]
    return Scale(
        allowed=(place(allowed[0]), place(allowed[1])),
        paper=(place(low), place(high)),
        ours=place(row["ours"]),
        beyond=int(row["ours"] > end) - int(row["ours"] < start),
        interval=None if interval is None else (place(interval[0]), place(interval[1])),
    )
