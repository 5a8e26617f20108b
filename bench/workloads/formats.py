"""Traces as they are published: each format known by its columns, never by a file's name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from bench.workloads.tables import Column, parse_length, parse_number
from engines.core.errors import UserError
from engines.core.text import shown


@dataclass(frozen=True)
class Format:
    """The columns of a source. An arrival is a time of day, or a number of `ticks_per_s`.

    `mark` is a column that tells the format from another with the same names.
    """

    source: str
    arrival: str
    input: str
    output: str
    ticks_per_s: float = 1.0
    mark: str = ""
    prefix: str = ""


OURS = Format("ours", "arrival_s", "input_len", "output_len", prefix="prefix_len")
FORMATS = (
    OURS,
    Format("Azure LLM inference", "TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    Format("BurstGPT", "Timestamp", "Request tokens", "Response tokens"),
    Format("Qwen-Bailian", "timestamp", "input_length", "output_length", mark="chat_id"),
    Format("Mooncake", "timestamp", "input_length", "output_length", 1e3),
    Format("Vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    Format("Splitwise", "arrival_timestamp", "prompt_size", "token_size"),
    Format("LLMServingSim", "arrival_time_ns", "input_toks", "output_toks", 1e9),
)
# What --trace-column can name, beside input, output and prefix: arrivals and their unit.
TICKS_PER_S = {"arrival": 1.0, "arrival_ms": 1e3, "arrival_us": 1e6, "arrival_ns": 1e9}
COLUMN_KEYS = (*TICKS_PER_S, "input", "output", "prefix")

_NS_PER_S = 10**9
_TIME_OF_DAY = re.compile(
    r"\s*(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)?\s*", re.ASCII
)


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """Read KEY=NAME of each --trace-column; raises UserError."""
    columns: dict[str, str] = {}
    for word in words:
        key, equals, name = str(word).partition("=")
        if key not in COLUMN_KEYS or not equals or not name or key in columns:
            raise UserError(
                f"--trace-column takes KEY=NAME, each KEY once ({', '.join(COLUMN_KEYS)}), got "
                f"{shown(word)}"
            )
        columns[key] = name
    if len(columns.keys() & TICKS_PER_S.keys()) > 1:
        raise UserError("--trace-column names two columns of arrivals: give one")
    return columns


def recognise(names: Sequence[str], columns: Mapping[str, str]) -> Format:
    """The format of a file with these columns, with those that the user names in place of its own.

    `arrival` and `prefix` are empty where the file has no such column. Raises ValueError.
    """
    for key, name in columns.items():
        if name not in names:
            raise ValueError(
                f"there is no column {shown(name)} for {key}: got {shown(','.join(names))}"
            )
    for known in FORMATS:
        found = _with_columns(known, columns)
        if {found.input, found.output} <= {*names} and (not known.mark or known.mark in names):
            break
    else:
        raise ValueError(_unknown(names))
    return replace(
        found,
        arrival=found.arrival if found.arrival in names else "",
        prefix=found.prefix if found.prefix in names else "",
    )


def _with_columns(known: Format, columns: Mapping[str, str]) -> Format:
    if not columns:
        return known
    for key, ticks_per_s in TICKS_PER_S.items():
        if key in columns:
            known = replace(known, arrival=columns[key], ticks_per_s=ticks_per_s)
    return replace(
        known,
        source="columns named by the user",
        input=columns.get("input", known.input),
        output=columns.get("output", known.output),
        prefix=columns.get("prefix", known.prefix),
    )


def _unknown(names: Sequence[str]) -> str:
    if not any(names):
        return "the header is empty: it must name columns such as arrival_s,input_len,output_len"
    known = ", ".join(known.source for known in FORMATS[1:])
    return (
        f"no known columns in {shown(','.join(names))}: give arrival_s,input_len,output_len or "
        f"those of {known} (docs/extending.md), or name yours: --trace-column arrival=NAME, "
        "input=NAME, output=NAME"
    )


def length_columns(found: Format) -> dict[str, Column]:
    """The columns of input_len, output_len and, where there is one, prefix_len, all in tokens."""
    columns = {
        "input_len": Column(found.input, parse_length),
        "output_len": Column(found.output, parse_length),
    }
    if found.prefix:
        columns["prefix_len"] = Column(found.prefix, parse_length)
    return columns


class Arrivals:
    """Parses a column of arrivals: all numbers, or all times of day.

    Times of day become nanoseconds since the first row's, so that their 100 ns survive a float.
    """

    def __init__(self) -> None:
        self.first_ns: int | None = None
        self.are_numbers = False

    def parse(self, value: object) -> float:
        """The number, or the nanoseconds since the first row; raises ValueError."""
        if self.first_ns is not None:
            return float(_nanoseconds(value) - self.first_ns)
        if isinstance(value, str) and not self.are_numbers and _TIME_OF_DAY.fullmatch(value):
            self.first_ns = _nanoseconds(value)
            return 0.0
        self.are_numbers = True
        number = parse_number(value)
        if number < 0:
            raise ValueError(f"must be at least 0, got {shown(value)}")
        return number


def _nanoseconds(value: object) -> int:
    """Nanoseconds since 1970 of a time such as 2023-11-16 18:15:46.6805900; raises ValueError."""
    match = _TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        second, fraction, zone = match.groups(default="")
        with suppress(ValueError):  # no such day, hour or zone
            return _second(second + (zone or "+00:00")) * _NS_PER_S + int(fraction.ljust(9, "0"))
    raise ValueError(f"must be a time such as 2023-11-16 18:15:46.6805900, got {shown(value)}")


@lru_cache(maxsize=1024)  # neighbouring requests share their second
def _second(text: str) -> int:
    """Seconds since 1970 of a whole second with its zone; raises ValueError."""
    return int(datetime.fromisoformat(text).timestamp())
