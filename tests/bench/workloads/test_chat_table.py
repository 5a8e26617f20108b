"""Conversations drawn from shipped statistics are like the real ones they were derived from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from places import SHARED

from bench.workloads.build import CHAT_FILE, build_workload, chat_statistics
from bench.workloads.chat_table import ROUND_STARTS, ChatTable, derive_chat_table
from bench.workloads.datasets import turns_of_rounds
from bench.workloads.derivation import derive_statistics
from bench.workloads.lengths import Lengths, read_lengths
from bench.workloads.tables import csv_bytes, read_input
from engines.core.errors import UserError

REAL = SHARED / "data" / "sharegpt_conversations.csv.gz"
COUNT = 200_000
Test = TypeVar("Test", bound=Callable[..., None])
# Of the 30,731 real rounds: those of each conversation, and by round, counted from 0, the mean
# query and answer and the share of prompts that reach 1024 tokens.
MEAN_ROUNDS, SHARE_OF_SEVERAL, SHARE_FULL = 5.41, 0.796, 0.638
BY_ROUND = {
    0: (228, 471, 0.056),
    1: (207, 461, 0.247),
    2: (170, 464, 0.644),
    3: (161, 465, 0.841),
    4: (130, 452, 0.905),
    6: (113, 458, 0.958),
}


def real_data(test: Test) -> Test:
    """Mark a test that needs the real conversations."""
    missing = pytest.mark.skipif(not REAL.exists(), reason=f"no real conversations at {REAL}")
    return pytest.mark.real_data(missing(test))


def draw(table: ChatTable, count: int, seed: int = 0) -> tuple[Lengths, NDArray[Any]]:
    first, second = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    return table.draw(count, of_conversations=first, of_turns=second)


def frame(turns: Lengths, rounds: NDArray[Any]) -> pd.DataFrame:
    """One row a turn: its round, its lengths and the whole prompt."""
    table = pd.DataFrame(
        {
            "conversation": np.repeat(np.arange(len(rounds)), rounds),
            "query": turns.input_len,
            "answer": turns.output_len,
        }
    )
    groups = table.groupby("conversation")
    table["round"] = groups.cumcount()
    table["prompt"] = groups["query"].cumsum() + groups["answer"].cumsum() - table.answer
    return table


@pytest.fixture(scope="module")
def sampled() -> pd.DataFrame:
    return frame(*draw(chat_statistics(), COUNT))


@pytest.fixture(scope="module")
def real_turns() -> Lengths:
    found = pd.read_csv(REAL)
    lengths = (found[name].to_numpy(np.int32) for name in ("prompt_len", "answer_len"))
    return turns_of_rounds(Lengths(*lengths))


@pytest.fixture(scope="module")
def real(real_turns: Lengths) -> pd.DataFrame:
    assert real_turns.conversation is not None
    return frame(real_turns, np.bincount(real_turns.conversation))


def test_rounds_are_as_many(sampled: pd.DataFrame) -> None:
    rounds = sampled.groupby("conversation").size()
    assert rounds.sum() == COUNT
    assert rounds.mean() == pytest.approx(MEAN_ROUNDS, rel=0.02)
    assert (rounds > 1).mean() == pytest.approx(SHARE_OF_SEVERAL, abs=0.02)
    assert rounds.quantile([0.5, 0.9, 0.99]).tolist() == pytest.approx([4, 12, 23], abs=1)


@pytest.mark.parametrize("number", BY_ROUND)
def test_lengths_by_round(sampled: pd.DataFrame, number: int) -> None:
    query, answer, full = BY_ROUND[number]
    turns = sampled[sampled["round"] == number]
    assert turns["query"].mean() == pytest.approx(query, rel=0.2)  # a tail of few, up to 7,000
    assert turns.answer.mean() == pytest.approx(answer, rel=0.04)
    assert (turns.prompt >= 1024).mean() == pytest.approx(full, abs=0.04)


def test_rounds_that_are_independent_would_fill_prompts_too_evenly() -> None:
    """Why there are classes: without them the fourth prompt is full in 93 % and not in 84 %."""
    table = chat_statistics()
    queries, answers = (
        np.tile(t.mean(axis=0).astype(int), (8, 1, 1)) for t in (table.queries, table.answers)
    )
    mixed = ChatTable(table.rounds, queries, answers, "mixed")
    turns = frame(*draw(mixed, COUNT))
    full = (turns[turns["round"] == 4].prompt >= 1024).mean()
    assert full > BY_ROUND[4][2] + 0.06


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    (short, short_rounds), (long, long_rounds) = (draw(chat_statistics(), n) for n in (500, 90_000))
    assert (long_rounds[: len(short_rounds) - 1] == short_rounds[:-1]).all()
    assert (long.input_len[:500] == short.input_len).all()
    assert (long.output_len[:500] == short.output_len).all()
    assert short.input_len.dtype == short.output_len.dtype == np.int32


def test_the_workload_has_these_prompts_and_its_margin() -> None:
    workload = build_workload("chat", rate=20.0, duration=3600.0, seed=0)
    assert workload.input_len.max() == 1024
    assert workload.output_len.max() == 2048 - 1024 - 8
    assert (workload.input_len == 1024).mean() == pytest.approx(SHARE_FULL, abs=0.01)
    assert workload.mean_output_len == pytest.approx(439, rel=0.01)


def test_a_table_survives_its_text() -> None:
    text = CHAT_FILE.read_text(encoding="utf-8")
    table = ChatTable.parse(text, "x")
    assert table.to_csv() == "".join(x for x in text.splitlines(True) if not x.startswith("#"))
    for quantiles in (table.rounds, table.queries, table.answers):
        assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_derived_tables_invert_what_is_drawn_from_them() -> None:
    """The classes of drawn conversations, derived again, have the same quantiles in the middle."""
    turns, rounds = draw(chat_statistics(), COUNT, seed=3)
    known = Lengths(turns.input_len, turns.output_len,
                    np.repeat(np.arange(len(rounds)), rounds).astype(np.int32))  # fmt: skip
    again = derive_chat_table(known)
    middle = 10
    assert again.rounds.shape == chat_statistics().rounds.shape
    found, expected = again.answers[:, :, middle], chat_statistics().answers[:, :, middle]
    assert found.mean() == pytest.approx(expected.mean(), rel=0.03)
    assert (np.diff(again.answers[:, 1, middle]) > 0).all(), "classes go from short to long"


def test_too_few_conversations_are_an_error() -> None:
    few = Lengths(*np.ones((3, 40), np.int32))
    with pytest.raises(UserError, match=rf"needs one of more than {ROUND_STARTS[-1]} rounds"):
        derive_statistics(few)


@real_data
def test_shipped_statistics_are_regenerated_byte_for_byte(
    tmp_path: Path, real_turns: Lengths
) -> None:
    source = tmp_path / "chat_lengths.csv"
    source.write_bytes(csv_bytes(real_turns.columns()))
    assert derive_statistics(read_lengths(read_input(source))) == CHAT_FILE.read_text()


@real_data
def test_numbers_above_are_the_real_ones(real: pd.DataFrame) -> None:
    rounds = real.groupby("conversation").size()
    assert (len(real), len(rounds)) == (30_731, 5_678)
    assert rounds.mean() == pytest.approx(MEAN_ROUNDS, abs=0.005)
    assert (rounds > 1).mean() == pytest.approx(SHARE_OF_SEVERAL, abs=0.0005)
    assert (real.prompt >= 1024).mean() == pytest.approx(SHARE_FULL, abs=0.0005)
    for number, (query, answer, full) in BY_ROUND.items():
        turns = real[real["round"] == number]
        assert turns["query"].mean() == pytest.approx(query, abs=0.5)
        assert turns.answer.mean() == pytest.approx(answer, abs=0.5)
        assert (turns.prompt >= 1024).mean() == pytest.approx(full, abs=0.0005)


@real_data
@pytest.mark.parametrize("column", ["query", "answer", "prompt"])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_sampling_has_the_real_quantiles(
    sampled: pd.DataFrame, real: pd.DataFrame, column: str, number: int
) -> None:
    levels = [0.25, 0.5, 0.75, 0.9, 0.95]
    expected, found = (t[t["round"] == number][column].quantile(levels) for t in (real, sampled))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.15, abs=4)
