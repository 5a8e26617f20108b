"""Conversations without the conversations: quantiles of their rounds, queries and answers.

The lengths of a conversation's rounds go together: who gets long answers goes on getting them. So
conversations are put into classes of equal size by their mean tokens a round, and a class keeps
quantiles of its rounds and, by round, of its queries and of its answers. Sampling chooses a class,
then inverts the piecewise linear distribution functions independently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.workloads.lengths import CHUNK, Lengths
from bench.workloads.quantiles import Ints, invert
from engines.core.errors import UserError

CLASSES = 8
ROUND_STARTS = np.array([0, 1, 2, 4])  # the first rounds, counted from 0, of those seen as alike
PERCENTS = np.concatenate([np.arange(0, 100, 5), [97.5, 99, 99.5, 100]])
LEVELS = PERCENTS / 100
COLUMNS = ("what", "class", "from_round", *(f"p{percent:g}" for percent in PERCENTS))
_WHAT = ("rounds", "query", "answer")


@dataclass(frozen=True)
class ChatTable:
    """Quantiles at the probabilities `LEVELS`.

    `rounds` (classes, levels) of the number of rounds; `queries` and `answers` (classes, groups of
    rounds, levels) in tokens.
    """

    rounds: Ints
    queries: Ints
    answers: Ints
    description: str

    def draw(
        self, count: int, *, of_conversations: np.random.Generator, of_turns: np.random.Generator
    ) -> tuple[Lengths, Ints]:
        """Draw whole conversations, all together exactly `count` turns; the last may be cut.

        Returns their turns, one conversation after the other, and the rounds of each. Two uniform
        numbers are used for a conversation and two for a turn, so that a longer draw begins with
        the shorter one.
        """
        kinds, rounds = self._draw_rounds(count, of_conversations)
        starts = np.cumsum(rounds) - rounds
        kind = np.repeat(kinds, rounds)
        group = _group_of(np.arange(count) - np.repeat(starts, rounds))
        lengths = np.empty((2, count), dtype=np.int32)
        for first in range(0, count, CHUNK):
            part = slice(first, first + CHUNK)
            uniform = of_turns.random((len(kind[part]), 2))
            for row, table in enumerate((self.queries, self.answers)):
                quantiles = table[kind[part], group[part]]
                lengths[row, part] = invert(quantiles, LEVELS, uniform[:, row])
        return Lengths(*lengths), rounds

    def _draw_rounds(self, count: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
        """Class and rounds of each conversation."""
        kinds, rounds, left = [], [], count
        while left > 0:
            uniform = generator.random((min(left, CHUNK), 2))  # none has less than one round
            kinds.append((uniform[:, 0] * CLASSES).astype(np.int64))
            rounds.append(invert(self.rounds[kinds[-1]], LEVELS, uniform[:, 1]))
            left -= int(rounds[-1].sum())
        total = np.cumsum(np.concatenate(rounds))
        used = int(np.searchsorted(total, count)) + 1
        kept = np.concatenate(rounds)[:used]
        kept[-1] -= total[used - 1] - count
        return np.concatenate(kinds)[:used], kept

    def to_csv(self) -> str:
        """The table as text; `parse` reads it."""
        lines: list[tuple[object, ...]] = [COLUMNS]
        for kind in range(CLASSES):
            lines.append(("rounds", kind, 0, *self.rounds[kind].tolist()))
            for what, table in (("query", self.queries), ("answer", self.answers)):
                for group, start in enumerate(ROUND_STARTS.tolist()):
                    lines.append((what, kind, start, *table[kind, group].tolist()))
        return "".join(",".join(map(str, line)) + "\n" for line in lines)

    @classmethod
    def parse(cls, text: str, description: str) -> ChatTable:
        """Read the text of `to_csv`; lines that start with # are comments."""
        lines = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
        assert tuple(lines[0]) == COLUMNS, "a table of other levels"
        rounds, queries, answers = (
            np.array([line[3:] for line in lines if line[0] == what], dtype=np.int64)
            for what in _WHAT
        )
        shape = (CLASSES, len(ROUND_STARTS), len(LEVELS))
        return cls(rounds, queries.reshape(shape), answers.reshape(shape), description)


def derive_chat_table(turns: Lengths) -> ChatTable:
    """Summarise real conversations; raises UserError if they are too few."""
    assert turns.conversation is not None, "lengths of conversations"
    conversation = np.sort(turns.conversation)
    turns = turns.take(np.argsort(turns.conversation, kind="stable"))
    tokens = turns.input_len.astype(np.int64) + turns.output_len
    rounds = np.unique_counts(conversation).counts.astype(np.int64)
    first = np.cumsum(rounds) - rounds
    by_size = np.argsort(np.add.reduceat(tokens, first) / rounds, kind="stable")
    kinds = np.empty(len(rounds), dtype=np.int64)
    kinds[by_size] = np.arange(len(rounds)) * CLASSES // len(rounds)
    kind = np.repeat(kinds, rounds)
    group = _group_of(np.arange(len(turns)) - np.repeat(first, rounds))
    cells = [
        [np.flatnonzero((kind == k) & (group == g)) for g in range(len(ROUND_STARTS))]
        for k in range(CLASSES)
    ]
    if not all(len(rows) for row in cells for rows in row):
        raise UserError(
            f"{len(rounds)} conversations are too few for statistics: each of {CLASSES} classes "
            f"needs one of more than {ROUND_STARTS[-1]} rounds"
        )
    queries, answers = (
        np.array([[_quantiles(values[rows]) for rows in row] for row in cells])
        for values in (turns.input_len, turns.output_len)
    )
    of_rounds = np.array([_quantiles(rounds[kinds == k]) for k in range(CLASSES)])
    return ChatTable(of_rounds, queries, answers, "derived")


def _quantiles(values: NDArray[np.int32] | Ints) -> Ints:
    return np.quantile(values, LEVELS, method="inverted_cdf").astype(np.int64)


def _group_of(rounds: Ints) -> Ints:
    return np.searchsorted(ROUND_STARTS, rounds, side="right") - 1
