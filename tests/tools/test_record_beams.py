"""Recording beam searches: what is written is what the simulation plays back."""

from __future__ import annotations

import gzip
from importlib import resources
from typing import Any

from engines.sim import beams
from tools.record_beams import HEADER, PROMPT_LENS, Recording, passages


def words(text: str) -> dict[str, Any]:
    """A tokenizer that counts words."""
    return {"input_ids": [len(word) for word in text.split()]}


def test_shipped_recordings_are_of_this_tool() -> None:
    data = (resources.files("engines.sim") / "data" / "beams.csv.gz").read_bytes()
    text = gzip.decompress(data).decode()
    assert text.startswith(HEADER)
    assert {row.prompt_len for width in (2, 4, 6) for row in beams.searches_of(width)} == {
        *PROMPT_LENS
    }


def test_forks_are_read_as_they_were_written() -> None:
    made = [(1, (0, 0)), (2, (1, 1)), (9, (0, 0))]
    written = Recording()
    for position, parents in made:
        written.fork(position, parents)
    row = beams.Row(20, 11, 0.0, 0.0, " ".join(written.forks))
    played = beams.read_forks(row, 2)
    assert list(zip(played.positions, played.parents, strict=True)) == made
    assert played.period == 5


def test_passages_are_the_same_each_time_and_of_both_lengths() -> None:
    found = list(passages(words, 6, seed=0))
    assert [len(prompt) for prompt in found] == [*PROMPT_LENS] * 3
    assert found == list(passages(words, 6, seed=0)) != list(passages(words, 6, seed=1))
