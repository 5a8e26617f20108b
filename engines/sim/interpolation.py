"""Interpolation of measured times: linear between neighbours, so between their values, and rising.

Beyond the measurements a line goes on with its last slope.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import fsum


def rising(values: Sequence[float]) -> list[float]:
    """The non-decreasing numbers nearest to `values` in squares (pool adjacent violators).

    What lies below keeps below: rows that are ordered before are ordered after.
    """
    pools: list[tuple[float, int]] = []  # sums and counts of neighbours that share their mean
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] * count > total * pools[-1][1]:
            before, several = pools.pop()
            total, count = total + before, count + several
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


class Curve:
    """A function of one number through points with rising `xs`."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        assert len(xs) == len(ys) > 0, "a curve needs points"
        self.xs: list[float] = [float(x) for x in xs]
        self.ys: list[float] = [float(y) for y in ys]

    def at(self, x: float) -> float:
        """The value at `x`."""
        xs, ys = self.xs, self.ys
        if len(xs) == 1:
            return ys[0]
        i = min(max(bisect_right(xs, x) - 1, 0), len(xs) - 2)
        return ys[i] + (x - xs[i]) * (ys[i + 1] - ys[i]) / (xs[i + 1] - xs[i])


class Surface:
    """A function of two numbers: bilinear between the values [x][y] of a grid with rising axes."""

    def __init__(
        self, xs: Sequence[float], ys: Sequence[float], values: Sequence[Sequence[float]]
    ) -> None:
        assert len(xs) == len(values) > 0, "a surface needs a row of values for each x"
        # One more row or column like the last stands for an axis of a single number.
        self.xs: list[float] = [float(x) for x in xs]
        self.ys: list[float] = [float(y) for y in ys]
        self.values: list[list[float]] = [[float(v) for v in row] for row in values]
        if len(self.xs) == 1:
            self.xs.append(self.xs[0] + 1.0)
            self.values.append(list(self.values[0]))
        if len(self.ys) == 1:
            self.ys.append(self.ys[0] + 1.0)
            for row in self.values:
                row.append(row[0])
        rows, columns = self.values, [[row[j] for row in self.values] for j in (-2, -1)]
        self._right = _mean_slope(rows[-2], rows[-1], self.xs[-1] - self.xs[-2])
        self._up = _mean_slope(columns[0], columns[1], self.ys[-1] - self.ys[-2])

    def covers(self, x: float, y: float) -> bool:
        """Whether the point lies within the grid."""
        xs, ys = self.xs, self.ys
        return xs[0] <= x <= xs[-1] and ys[0] <= y <= ys[-1]

    def at(self, x: float, y: float) -> float:
        """The value at (x, y): before an axis as at its start, beyond it by its mean slope."""
        xs, ys = self.xs, self.ys
        beyond = 0.0
        if x > xs[-1]:
            beyond, x = (x - xs[-1]) * self._right, xs[-1]
        if y > ys[-1]:
            beyond, y = beyond + (y - ys[-1]) * self._up, ys[-1]
        x, y = max(x, xs[0]), max(y, ys[0])
        i = min(bisect_right(xs, x) - 1, len(xs) - 2)
        j = min(bisect_right(ys, y) - 1, len(ys) - 2)
        low, high = self.values[i], self.values[i + 1]
        right = (x - xs[i]) / (xs[i + 1] - xs[i])
        up = (y - ys[j]) / (ys[j + 1] - ys[j])
        left = low[j] + up * (low[j + 1] - low[j])
        return beyond + left + right * (high[j] + up * (high[j + 1] - high[j]) - left)


def _mean_slope(low: Sequence[float], high: Sequence[float], width: float) -> float:
    """From one line of values to the next, at least 0; one for all, or lines beyond might cross."""
    return max(0.0, (fsum(high) - fsum(low)) / (len(low) * width))
