"""Where request lengths come from: shipped statistics, an assumption, or a real file."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.workloads import assumed
from bench.workloads.formats import length_columns, recognise
from bench.workloads.tables import Column, InputFile, parse_length, read_columns
from engines.core.errors import UserError

CHUNK = 1 << 16
FIRST_CHUNK = 1 << 10
CONVERSATION = "conversation"  # a column of our own files: which conversation a turn belongs to


@dataclass(frozen=True)
class Lengths:
    """Pairs of input and output lengths in tokens, int32 (n,) each.

    `conversation` numbers the conversation of each, where it is known; its turns are in order.
    """

    input_len: NDArray[np.int32]
    output_len: NDArray[np.int32]
    conversation: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        assert self.input_len.shape == self.output_len.shape, "lengths come in pairs"

    def columns(self) -> dict[str, NDArray[np.int32]]:
        """The arrays under the names of the columns of our own files."""
        known = {} if self.conversation is None else {CONVERSATION: self.conversation}
        return known | {"input_len": self.input_len, "output_len": self.output_len}

    def __len__(self) -> int:
        return len(self.input_len)

    def take(self, rows: NDArray[np.int64] | slice) -> Lengths:
        """The pairs at `rows`, in that order."""
        conversation = None if self.conversation is None else self.conversation[rows]
        return Lengths(self.input_len[rows], self.output_len[rows], conversation)

    def below(self, limit: int) -> Lengths:
        """The pairs with input + output < `limit` (the paper drops the others)."""
        total = self.input_len.astype(np.int64) + self.output_len
        return self.take(np.flatnonzero(total < limit))

    def first_turns(self) -> Lengths:
        """The first pair of each conversation, where conversations are known."""
        if self.conversation is None:
            return self
        _, first = np.unique(self.conversation, return_index=True)
        return replace(self.take(np.sort(first)), conversation=None)


class LengthSource(Protocol):
    """A distribution of pairs.

    The n-th pair drawn depends on the generator's seed alone, not on how many are drawn at once,
    so that a longer trace begins with the shorter one's requests.
    """

    @property
    def description(self) -> str:
        """One plain phrase for results: what lengths these are."""

    def draw(self, generator: np.random.Generator, count: int) -> Lengths:
        """The next `count` pairs."""


@dataclass(frozen=True)
class LogNormalLengths:
    """Log-normal lengths of given means in tokens, rounded, at least 1.

    `correlation` is that of the two logarithms.
    """

    input_mean: float
    input_sigma: float
    output_mean: float
    output_sigma: float
    correlation: float
    description: str

    def draw(self, generator: np.random.Generator, count: int) -> Lengths:
        """The next `count` pairs; two normal numbers are used for each."""
        normal = generator.standard_normal((count, 2))
        rest = math.sqrt(1 - self.correlation**2)
        second = self.correlation * normal[:, 0] + rest * normal[:, 1]
        return Lengths(
            _log_normal(normal[:, 0], self.input_mean, self.input_sigma),
            _log_normal(second, self.output_mean, self.output_sigma),
        )


def _log_normal(normal: NDArray[np.float64], mean: float, sigma: float) -> NDArray[np.int32]:
    # The mean of exp(N(mu, sigma^2)) is exp(mu + sigma^2 / 2).
    values = np.exp(math.log(mean) - sigma**2 / 2 + sigma * normal)
    return np.clip(np.rint(values), 1, 2**30).astype(np.int32)


@dataclass(frozen=True)
class EmpiricalLengths:
    """Real pairs in the order of their file."""

    pairs: Lengths
    description: str

    def draw(self, generator: np.random.Generator, count: int) -> Lengths:
        """The next `count` pairs, with replacement; one uniform number is used for each."""
        rows = (generator.random(count) * len(self.pairs)).astype(np.int64)
        return self.pairs.take(rows)

    def shuffled_head(self, count: int, *, seed: int, limit: int) -> Lengths:
        """The first `count` pairs below `limit` (from the start again if too few), shuffled.

        This is how the original artifact makes a trace; with its data and seed 0 the result is
        the very sequence of lengths that its runs served.
        """
        order = list(range(count))
        random.Random(seed).shuffle(order)
        fitting = self.pairs.below(limit)
        if not len(fitting):
            raise UserError(
                f"no request of {self.description} has input + output below {limit} tokens: choose "
                "a model with a longer context or shorter lengths"
            )
        return fitting.take(np.array(order, dtype=np.int64) % len(fitting))


def alpaca_lengths() -> LogNormalLengths:
    """Synthetic lengths with the means and spread of Alpaca (paper, Figure 11)."""
    return LogNormalLengths(
        assumed.ALPACA_INPUT_MEAN.value,
        assumed.ALPACA_INPUT_SIGMA.value,
        assumed.ALPACA_OUTPUT_MEAN.value,
        assumed.ALPACA_OUTPUT_SIGMA.value,
        correlation=0.0,
        description="synthetic Alpaca lengths: log-normal with the paper's means "
        f"{assumed.ALPACA_INPUT_MEAN.value} and {assumed.ALPACA_OUTPUT_MEAN.value}",
    )


def read_lengths(file: InputFile) -> Lengths:
    """The lengths of a file in any format of traces; raises UserError with the line."""

    def choose(names: Sequence[str]) -> dict[str, Column]:
        columns = length_columns(recognise(names, {}))
        columns.pop("prefix_len", None)
        if CONVERSATION in names:
            columns[CONVERSATION] = Column(CONVERSATION, parse_length)
        return columns

    table = read_columns(file, choose)
    line = table.pop("line")
    for row in np.flatnonzero((table["input_len"] < 1) | (table["output_len"] < 1))[:1]:
        raise UserError(
            f"{file.path} line {line[row]}: lengths must be at least 1, got "
            f"{table['input_len'][row]} and {table['output_len'][row]}"
        )
    return Lengths(**table)


def real_lengths(file: InputFile, *, first_turns: bool) -> EmpiricalLengths:
    """Real lengths from a file, without the pairs that reach 2048 tokens in all.

    Of a file of conversations, their first turns, or else all turns of whatever length. Raises
    UserError.
    """
    pairs = read_lengths(file)
    if first_turns or pairs.conversation is None:
        kept = pairs.first_turns().below(assumed.LENGTH_LIMIT)
    else:
        kept = pairs
    if not len(kept):
        raise UserError(
            f"{file.path} has no row with input_len + output_len below {assumed.LENGTH_LIMIT}"
        )
    return EmpiricalLengths(
        kept, f"real lengths from {file.path.name} ({len(kept)} rows, sha256 {file.sha256})"
    )


def sample_lengths(
    source: LengthSource, count: int, *, generator: np.random.Generator, limit: int
) -> Lengths:
    """The first `count` pairs of the source with input + output < `limit`.

    Raises UserError if next to none of the source's pairs fit.
    """
    parts: list[Lengths] = []
    missing, drawn = count, 0
    while missing:
        chunk = min(max(missing + missing // 16, drawn, FIRST_CHUNK), CHUNK)
        parts.append(source.draw(generator, chunk).below(limit).take(slice(missing)))
        drawn += chunk
        missing -= len(parts[-1])
        if missing and drawn >= CHUNK and (count - missing) * 1000 < drawn:
            raise UserError(
                f"hardly any request of {source.description} has input + output below {limit} "
                "tokens: choose a model with a longer context or shorter lengths"
            )
    return Lengths(
        np.concatenate([part.input_len for part in parts]),
        np.concatenate([part.output_len for part in parts]),
    )
