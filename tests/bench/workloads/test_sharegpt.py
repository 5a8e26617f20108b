"""ShareGPT's JSON: turns and their tokens, as one-turn requests and as conversations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizer import conversation, write_sharegpt, write_tokenizer

from bench.workloads.build import build_workload
from bench.workloads.conversations import real_conversations
from bench.workloads.lengths import Lengths, real_lengths
from bench.workloads.sharegpt import count_tokens, is_sharegpt, load_tokenizer, read_conversations
from bench.workloads.tables import InputFile, csv_bytes, read_input
from engines.core.errors import UserError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def file_of(content: Any, *, compress: bool = False) -> InputFile:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return InputFile(Path("sharegpt.json"), gzip.compress(data) if compress else data)


@pytest.mark.parametrize("compress", [False, True])
def test_turns_are_a_question_and_the_answer_below_it(tmp_path: Path, compress: bool) -> None:
    data = b"\xef\xbb\xbf" + write_sharegpt(tmp_path / "v3.json").read_bytes()
    file = file_of(data, compress=compress)
    assert is_sharegpt(file)
    assert read_conversations(file) == [
        [("a b c", "d e"), ("f", "g h i j")],
        [("b b", "c c c c c")],
    ]


def test_tokens_are_the_tokenizers_with_its_special_ones(tmp_path: Path, tokenizer: Path) -> None:
    found = read_conversations(read_input(write_sharegpt(tmp_path / "v3.json")))
    shares: list[float] = []
    first = count_tokens(found, tokenizer, first_turns=True, on_progress=shares.append)
    assert (first.input_len.tolist(), first.output_len.tolist()) == ([4, 3], [3, 6])
    assert first.conversation is None
    assert shares[-1] == 1.0
    every = count_tokens(found, tokenizer, first_turns=False, on_progress=shares.append)
    assert every.conversation is not None
    assert every.conversation.tolist() == [0, 0, 1]
    assert (every.input_len.tolist(), every.output_len.tolist()) == ([4, 2, 3], [3, 5, 6])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", "is not valid JSON"),
        (b"[\xff", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        ([], "has no question with its answer"),
        ([conversation(("human", "a"))], "has no question with its answer"),
        ([1], "entry 0: expected an object with conversations"),
        ([{"conversations": [{"from": "human"}]}], "entry 0: expected an object"),
        ([{"conversations": 3}], "entry 0: expected an object"),
        ([conversation(("human", "a"), ("gpt", 3))], "entry 0: a value is no text"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_other_json_names_the_entry(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_conversations(file_of(content))
    assert "\n" not in str(caught.value)


def test_damaged_gzip_is_named() -> None:
    whole = file_of([conversation(("human", "a"), ("gpt", "b"))], compress=True)
    with pytest.raises(UserError, match="whole gzip"):
        read_conversations(InputFile(whole.path, whole.data[:-9]))
    with pytest.raises(UserError, match="whole gzip"):
        read_conversations(InputFile(whole.path, whole.data[:10] + b"\xff" * 20))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no folder of a tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def lengths_file(folder: Path) -> Path:
    """Conversations of 1 to 4 turns; a question has five tokens times its number."""
    sizes = [1 + number % 4 for number in range(40)]
    numbers = np.repeat(np.arange(40), sizes).astype(np.int32)
    turns = np.concatenate([np.arange(size) for size in sizes]).astype(np.int32)
    path = folder / "conversations.csv"
    path.write_bytes(csv_bytes(Lengths(5 * numbers + 5, turns + 1, numbers).columns()))
    return path


def test_first_turns_are_one_turn_requests(tmp_path: Path) -> None:
    source = real_lengths(read_input(lengths_file(tmp_path)), first_turns=True)
    assert source.pairs.input_len.tolist() == [5 * number + 5 for number in range(40)]
    assert set(source.pairs.output_len.tolist()) == {1}


def test_chat_goes_through_real_conversations_turn_by_turn(tmp_path: Path) -> None:
    """A request's prompt holds all that was said before in its conversation."""
    workload = build_workload(
        "chat", rate=5.0, duration=20.0, seed=0, lengths=lengths_file(tmp_path)
    )
    assert "conversations" in workload.source
    turn = workload.output_len - 1
    assert set(turn.tolist()) == {0, 1, 2, 3}
    # The k-th prompt: k + 1 questions of five times a number, and answers of 1 to k tokens.
    questions = workload.input_len - turn * (turn + 1) // 2
    assert (questions % (5 * (turn + 1)) == 0).all()
    first = questions[turn == 0]
    assert first[:20].tolist() == [5 * number + 5 for number in range(20)]  # in the file's order


def test_conversations_are_whole_until_there_are_enough_turns() -> None:
    numbers = np.repeat([7, 9], [2, 3]).astype(np.int32)
    known = Lengths(np.arange(1, 6, dtype=np.int32), np.arange(1, 6, dtype=np.int32), numbers)
    turns, rounds = real_conversations(known, 11)
    assert rounds.tolist() == [2, 3, 2, 3, 1]  # the last one is cut
    assert turns.input_len.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1]
    assert real_conversations(known, 5)[1].tolist() == [2, 3]


def test_real_conversations_are_not_dropped_for_their_length(tmp_path: Path) -> None:
    numbers = np.zeros(2, np.int32)
    long = Lengths(np.array([3000, 5], np.int32), np.array([9, 2500], np.int32), numbers)
    path = tmp_path / "long.csv"
    path.write_bytes(csv_bytes(long.columns()))
    assert len(real_lengths(read_input(path), first_turns=False).pairs) == 2


def test_chat_over_a_file_of_first_turns_takes_its_rounds_from_statistics(tmp_path: Path) -> None:
    path = tmp_path / "turns.csv"
    path.write_text("input_len,output_len\n7,9\n")
    workload = build_workload("chat", rate=5.0, duration=20.0, seed=0, lengths=path)
    assert set(workload.output_len.tolist()) == {9}
    assert {7, 7 + 9 + 7} < set(workload.input_len.tolist())
