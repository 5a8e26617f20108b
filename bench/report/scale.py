"""A claim as a small picture: the paper's value, what is allowed around it, and ours."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.claims.verdicts import Verdict, interval
from bench.report.markup import Html, element

WIDTH, HEIGHT, EDGE = 92.0, 18.0, 7.0
MARGIN = 0.6  # beyond the allowed band on either side, in widths of the band
MIDDLE = HEIGHT / 2


@dataclass(frozen=True)
class Extent:
    """The span of values that the picture shows, and where they lie in it."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Horizontal position; values outside lie at the edge."""
        share = (value - self.low) / (self.high - self.low)
        return EDGE + min(max(share, 0.0), 1.0) * (WIDTH - 2 * EDGE)

    def holds(self, value: float) -> bool:
        """Whether the value lies inside."""
        return self.low <= value <= self.high


def scale(verdict: Verdict) -> Html:
    """The picture as inline SVG; empty without a number of ours."""
    if verdict.ours is None:
        return Html("")
    low, high = interval(verdict.claim)
    low = 0.0 if math.isinf(low) else low
    allowed = (low - _tolerance(verdict, low), high + _tolerance(verdict, high))
    span = (allowed[1] - allowed[0]) or abs(high) * 0.2 or 1.0
    extent = Extent(allowed[0] - MARGIN * span, allowed[1] + MARGIN * span)
    parts = [
        _bar("track", EDGE, WIDTH - EDGE, 2.0),
        _bar("allowed", extent.place(allowed[0]), extent.place(allowed[1]), 12.0),
        _paper(extent, low, high),
        *_whiskers(verdict, extent),
        _ours(verdict.ours.value, extent),
    ]
    return element(
        "svg",
        *parts,
        class_=f"scale {verdict.status.name.lower()}",
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        width=WIDTH,
        height=HEIGHT,
        aria_hidden="true",
        focusable="false",
    )


def _tolerance(verdict: Verdict, value: float) -> float:
    claim = verdict.claim
    return claim.tolerance if claim.kind == "points" else claim.tolerance * abs(value)


def _bar(name: str, left: float, right: float, height: float) -> Html:
    return element(
        "rect",
        class_=name,
        x=left,
        y=MIDDLE - height / 2,
        width=max(right - left, 1.0),
        height=height,
        rx=min(2.0, height / 2),
    )


def _paper(extent: Extent, low: float, high: float) -> Html:
    if high > low:
        return _bar("paper", extent.place(low), extent.place(high), 4.0)
    x = extent.place(low)
    return element("line", class_="paper", x1=x, x2=x, y1=1, y2=HEIGHT - 1)


def _whiskers(verdict: Verdict, extent: Extent) -> list[Html]:
    if verdict.measurement.interval is None:
        return []
    left, right = (extent.place(value) for value in verdict.measurement.interval)
    return [element("line", class_="whisker", x1=left, x2=right, y1=MIDDLE, y2=MIDDLE)]


def _ours(value: float, extent: Extent) -> Html:
    x = extent.place(value)
    if extent.holds(value):
        return element("circle", class_="ours", cx=x, cy=MIDDLE, r=4)
    tip = x + (5 if value > extent.high else -5)
    path = f"M{tip:g} {MIDDLE:g} L{2 * x - tip:g} {MIDDLE - 5:g} L{2 * x - tip:g} {MIDDLE + 5:g} Z"
    return element("path", class_="ours", d=path)
