"""A joint table of quantiles: a dataset's lengths without the dataset.

The rows of the real data are put in bins by input length, equal inputs in one bin. A bin keeps
its number of rows, a few quantiles of its inputs and many of its outputs, so that the table keeps
both distributions and how they depend on each other. Sampling chooses a bin by its rows, then
inverts the two piecewise linear distribution functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads.assumed import LENGTH_LIMIT
from bench.workloads.lengths import Lengths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bins end at these shares of the rows: even, then finer where inputs are long, because there the
# room left for the output, and with it a request's memory, changes quickly within a bin.
BIN_SHARES = np.concatenate([np.arange(1, 38) / 40, np.arange(370, 400) / 400])
INPUT_LEVELS = np.linspace(0, 1, 5)
OUTPUT_PERCENTS = np.concatenate([[0, 0.5], np.arange(1, 98, 1.5), [98.5, 99, 99.5, 99.75, 100]])
OUTPUT_LEVELS = OUTPUT_PERCENTS / 100
COLUMNS = (
    "rows",
    *(f"input_{100 * level:g}" for level in INPUT_LEVELS),
    *(f"output_{percent:g}" for percent in OUTPUT_PERCENTS),
)


@dataclass(frozen=True)
class QuantileTable:
    """Bins in order of input length.

    `rows` (bins,); `inputs` (bins, levels) and `outputs` (bins, levels) are the quantiles at the
    probabilities `INPUT_LEVELS` and `OUTPUT_LEVELS`.
    """

    rows: Ints
    inputs: Ints
    outputs: Ints
    description: str

    def draw(self, generator: np.random.Generator, count: int) -> Lengths:
        """Draw pairs with input + output < 2048; three uniform numbers are used for each.

        A pair that does not fit has its output drawn again from the part of its bin's
        distribution that does, which leaves the distribution of inputs as it is.
        """
        uniform = generator.random((count, 3))
        ends = np.cumsum(self.rows) / self.rows.sum()
        bins = np.minimum(np.searchsorted(ends, uniform[:, 0], side="right"), len(ends) - 1)
        share = self.rows[bins] / self.rows.sum()
        within = np.clip(1 - (ends[bins] - uniform[:, 0]) / share, 0, 1)
        inputs = invert(self.inputs[bins], INPUT_LEVELS, within)
        outputs = invert(self.outputs[bins], OUTPUT_LEVELS, uniform[:, 1])
        room = LENGTH_LIMIT - 1 - inputs
        (again,) = np.nonzero(outputs > room)
        quantiles = self.outputs[bins[again]]
        reach = _probability(quantiles, OUTPUT_LEVELS, room[again] + 0.5)
        redrawn = invert(quantiles, OUTPUT_LEVELS, uniform[again, 2] * reach)
        outputs[again] = np.minimum(redrawn, room[again])
        return Lengths(inputs.astype(np.int32), outputs.astype(np.int32))

    def to_csv(self) -> str:
        """The table as text; `parse` reads it."""
        body = np.column_stack([self.rows, self.inputs, self.outputs]).tolist()
        return "".join(",".join(map(str, row)) + "\n" for row in (COLUMNS, *body))

    @classmethod
    def parse(cls, text: str, description: str) -> QuantileTable:
        """Read the text of `to_csv`; lines that start with # are comments."""
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert lines[0] == ",".join(COLUMNS), "a table of other levels"
        rows, inputs, outputs = np.split(
            np.loadtxt(lines[1:], delimiter=",", dtype=np.int64, ndmin=2),
            [1, 1 + len(INPUT_LEVELS)],
            axis=1,
        )
        return cls(rows[:, 0], inputs, outputs, description)


def derive_table(lengths: Lengths) -> QuantileTable:
    """Summarise real lengths; rows whose input + output reach 2048 are left out."""
    kept = lengths.below(LENGTH_LIMIT)
    inputs, outputs = kept.input_len, kept.output_len
    position = np.minimum((BIN_SHARES * len(kept)).astype(np.int64), len(kept) - 1)
    edges = np.unique(np.sort(inputs)[position])
    bin_of = np.searchsorted(edges, inputs, side="left")
    members = [bin_of == index for index in range(len(edges) + 1)]
    members = [member for member in members if member.any()]

    def quantiles(values: NDArray[np.int32], levels: Floats) -> Ints:
        per_bin = [np.quantile(values[m], levels, method="inverted_cdf") for m in members]
        return np.array(per_bin, dtype=np.int64)

    return QuantileTable(
        rows=np.array([member.sum() for member in members], dtype=np.int64),
        inputs=quantiles(inputs, INPUT_LEVELS),
        outputs=quantiles(outputs, OUTPUT_LEVELS),
        description="derived",
    )


def invert(quantiles: Ints, levels: Floats, probability: Floats) -> Ints:
    """Round the value at `probability` (n,) of each row of `quantiles` (n, levels)."""
    upper = np.clip(np.searchsorted(levels, probability, side="right"), 1, len(levels) - 1)
    row = np.arange(len(probability))
    low, high = quantiles[row, upper - 1], quantiles[row, upper]
    part = (probability - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return np.rint(low + part * (high - low)).astype(np.int64)


def _probability(quantiles: Ints, levels: Floats, value: NDArray[np.floating[Any]]) -> Floats:
    """The share of each row's distribution below `value` (n,): the inverse of `invert`."""
    upper = (quantiles <= value[:, None]).sum(axis=1)
    inside = np.clip(upper, 1, len(levels) - 1)
    row = np.arange(len(value))
    low, high = quantiles[row, inside - 1], quantiles[row, inside]
    part = np.clip((value - low) / np.maximum(high - low, 1), 0, 1)
    return np.asarray(levels[inside - 1] + part * (levels[inside] - levels[inside - 1]))
