"""ShareGPT's JSON, as published: conversations of text, counted in tokens by a tokenizer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads.lengths import Lengths
from bench.workloads.tables import InputFile
from engines.core.errors import UserError
from engines.core.text import shown

Turn = tuple[str, str]  # a query and its answer
_ASKING = ("human", "user")
_ANSWERING = ("gpt", "chatgpt", "assistant", "bing", "bard")
_AT_ONCE = 1 << 10  # turns given to the tokenizer together


def is_sharegpt(file: InputFile) -> bool:
    """Whether the file is a JSON list, as no trace is."""
    return _text(file, 64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def read_conversations(file: InputFile) -> list[list[Turn]]:
    """The turns of each conversation that has any; raises UserError naming file and entry.

    A turn is a message of the person and the answer right below it; other messages are left out.
    """
    try:
        entries = json.loads(_text(file).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = (str(error) or "too deep").splitlines()[0]
        raise UserError(f"{file.path} is not valid JSON: {reason[:120]}") from None
    found = [list(_turns(file, number, entry)) for number, entry in enumerate(entries)]
    if not any(found):
        raise UserError(f"{file.path} has no question with its answer")
    return [turns for turns in found if turns]


def _text(file: InputFile, size: int = -1) -> bytes:
    with file.unpacked(io.BytesIO(file.data)) as stream:
        return stream.read(size)


def _turns(file: InputFile, number: int, entry: Any) -> Iterator[Turn]:
    try:
        messages = [(str(m["from"]), m["value"]) for m in entry["conversations"]]
    except (KeyError, TypeError):
        raise UserError(
            f"{file.path} entry {number}: expected an object with conversations, a list of objects "
            f"with from and value, got {shown(entry)}"
        ) from None
    for (asking, query), (answering, answer) in pairwise(messages):
        if asking in _ASKING and answering in _ANSWERING:
            if not (isinstance(query, str) and isinstance(answer, str)):
                raise UserError(f"{file.path} entry {number}: a value is no text")
            yield query, answer


def count_tokens(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Path,
    *,
    first_turns: bool,
    on_progress: Callable[[float], None],
) -> Lengths:
    """Lengths of the first turn of each conversation, or of all turns with their conversation.

    `tokenizer` is a local folder that transformers can load; special tokens that it adds count, as
    in the original's lengths. Turns without tokens are left out. Raises UserError.
    """
    encode = load_tokenizer(tokenizer)
    turns = [
        (number, turn)
        for number, each in enumerate(conversations)
        for turn in (each[:1] if first_turns else each)
    ]
    lengths: list[tuple[int, int]] = []
    for first in range(0, len(turns), _AT_ONCE):
        part = [turn for _, turn in turns[first : first + _AT_ONCE]]
        texts = encode([text for turn in part for text in turn])["input_ids"]
        lengths += [(len(q), len(a)) for q, a in zip(texts[::2], texts[1::2], strict=True)]
        on_progress((first + len(part)) / len(turns))
    input_len, output_len = np.array(lengths, dtype=np.int32).T.copy()
    numbers = np.array([number for number, _ in turns], dtype=np.int32)
    found = Lengths(input_len, output_len, None if first_turns else numbers)
    return found.take(np.flatnonzero((input_len > 0) & (output_len > 0)))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local folder, without the network; raises UserError."""
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError:
        raise UserError(
            "a tokenizer needs transformers, which is not installed: pip install transformers"
        ) from None
    try:
        loaded = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # damaged files raise almost anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder} is no folder of a tokenizer: {reason[:120]}") from error
    # Without its files, some classes make a tokenizer that knows no words.
    if not any((folder / name).is_file() for name in loaded.vocab_files_names.values()):
        names = ", ".join(loaded.vocab_files_names.values())
        raise UserError(f"{folder} is no folder of a tokenizer: it holds none of {names}")
    return loaded
