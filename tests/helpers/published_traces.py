"""Small files of the published form of each trace format, for the same requests."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

Row = tuple[float, int, int]  # seconds from the start, tokens in and out
Rows = Sequence[Row]

ROWS: Rows = [(0.0, 374, 44), (0.25, 396, 109), (0.25, 879, 55), (3.5, 91, 16), (10.0, 10, 70)]
_MIDNIGHT = datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)


def table(names: str, rows: Sequence[Sequence[object]], quoting: int = csv.QUOTE_MINIMAL) -> str:
    """A CSV file of a header and rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(names.split(","))
    writer.writerows(rows)
    return text.getvalue()


def objects(rows: Sequence[dict[str, object]]) -> str:
    """A file of JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def _clock(second: float, *, ticks: bool) -> str:
    moment = _MIDNIGHT + timedelta(seconds=second)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    if ticks:
        return f"{text}.{moment.microsecond * 10:07d}"
    return text + (f".{moment.microsecond:06d}" if moment.microsecond else "") + "+00:00"


FORMATS: dict[str, Callable[[Rows], str]] = {
    "ours": lambda rows: table("arrival_s,input_len,output_len", [list(row) for row in rows]),
    "azure-2023": lambda rows: table(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        [(_clock(a, ticks=True), i, o) for a, i, o in rows],
    ),
    "azure-2024": lambda rows: table(
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        [(_clock(a, ticks=False), i, o) for a, i, o in rows],
    ),
    "azure-2025": lambda rows: table(
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
        [(_clock(a, ticks=True), 1, i, o) for a, i, o in rows],
    ),
    "burstgpt-1": lambda rows: table(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        [(5270400 + a, "ChatGPT", i, o, i + o, "Conversation log") for a, i, o in rows],
    ),
    "burstgpt-3": lambda rows: table(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type",
        [
            (19440110.0 + a, "1722ac82-0a46-4bf0-aa08-89794e7a2b3f", 43, "GPT-4, a", i, o, i + o,
             "API log")
            for a, i, o in rows
        ],
    ),
    "mooncake": lambda rows: objects(
        [
            {"timestamp": int(1000 * a), "input_length": i, "output_length": o, "hash_ids": [0, n]}
            for n, (a, i, o) in enumerate(rows)
        ]
    ),
    "qwen-bailian": lambda rows: objects(
        [
            {"chat_id": n, "parent_chat_id": -1, "timestamp": 61.25 + a, "input_length": i,
             "output_length": o, "type": "text", "turn": 1, "hash_ids": [n]}
            for n, (a, i, o) in enumerate(rows)
        ]
    ),
    "vidur": lambda rows: table(
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,arrived_at",
        [(float(i), float(o), i + o, a) for a, i, o in rows],
    ),
    "splitwise": lambda rows: table(
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,"
        "token_size",
        [(n, 2, 0, a, 1, i, o) for n, (a, i, o) in enumerate(rows)],
    ),
    "llmservingsim": lambda rows: objects(
        [
            {"input_toks": i, "output_toks": o, "arrival_time_ns": int(1e9 * a)}
            for a, i, o in rows
        ]
    ),
}  # fmt: skip
