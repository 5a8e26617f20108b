"""Columns of a text file: CSV or JSON lines, plain or gzip; every error names file and line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import re
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records import parse_object
from engines.core.errors import UserError
from engines.core.text import parse_decimal, shown

MAX_ROWS = 10_000_000
LARGEST_INT = 2**31 - 1
_TELL_EVERY = 1 << 14  # rows between two reports of progress
_ROWS_AT_ONCE = 1 << 16  # that are written
_SHORT = re.compile("0|[1-9][0-9]{0,8}")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class InputFile:
    """A file's content, read once: what is parsed is what is hashed."""

    path: Path
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes that were read."""
        return hashlib.sha256(self.data).hexdigest()

    @contextmanager
    def unpacked(self, raw: io.BytesIO) -> Iterator[gzip.GzipFile | io.BytesIO]:
        """A stream of `raw`, which holds the data, unpacked where they are gzip.

        Raises UserError where they are damaged.
        """
        try:
            yield gzip.GzipFile(fileobj=raw) if self.data.startswith(_GZIP) else raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{self.path} is not a whole gzip file: {error}") from error


def read_input(path: Path) -> InputFile:
    """Read a file whole; raises UserError if it cannot be read or is no regular file."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(
                f"{path} is not a regular file: save its content first, so that the result can "
                "name its input"
            )
        return InputFile(path, path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from error


def parse_number(value: object) -> float:
    """A finite number from the text of a CSV field or from a JSON value; raises ValueError."""
    number = math.nan
    with suppress(ValueError, OverflowError):
        if isinstance(value, str):
            number = parse_decimal(value.strip(" \t"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, got {shown(value)}")
    return number


def parse_length(value: object) -> int:
    """A number of tokens, 0 to 2^31 - 1, also written as 10.0; raises ValueError."""
    if isinstance(value, str) and _SHORT.fullmatch(value):
        return int(value)  # nearly all are; the rest takes several times as long
    with suppress(ValueError):
        number = parse_number(value)
        if 0 <= number <= LARGEST_INT and number.is_integer():
            return int(number)
    raise ValueError(f"must be a whole number from 0 to {LARGEST_INT}, got {shown(value)}")


@dataclass(frozen=True)
class Column:
    """A column to read: its name in the file, how a value becomes a number, its array's type."""

    name: str
    parse: Callable[[Any], Any]
    typecode: str = "i"  # of the module `array`


class _CsvRows:
    """Rows of a CSV file; `line` is the one read last."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._reader = csv.reader(lines, strict=True)
        self.names: Sequence[str] = [name.strip() for name in next(self._reader, [])]

    @property
    def line(self) -> int:
        return max(1, self._reader.line_num)

    def values(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """The named fields of each row; blank lines are skipped. Raises ValueError."""
        for name in names:
            if self.names.count(name) > 1:
                raise ValueError(f"column {shown(name)} is named twice")
        places = [self.names.index(name) for name in names]
        width = len(self.names)
        for fields in self._reader:
            if len(fields) == width:
                yield [fields[place] for place in places]
            elif "".join(fields).strip():
                raise ValueError(
                    f"{width} fields expected, got {len(fields)}: one for each name of the first "
                    "line, with commas only between them"
                )


class _JsonRows:
    """Objects of a file of JSON lines; `line` is the one read last."""

    def __init__(self, first: str, lines: Iterator[str]) -> None:
        self.line = 1
        self.names: Sequence[str] = list(parse_object(first))
        self._lines = chain([first], lines)

    def values(self, names: Sequence[str]) -> Iterator[list[Any]]:
        """The named values of each object; blank lines are skipped. Raises ValueError."""
        for number, text in enumerate(self._lines, start=1):
            self.line = number
            if text.strip():
                record = parse_object(text)
                try:
                    yield [record[name] for name in names]
                except KeyError as error:
                    raise ValueError(f"{shown(error.args[0])} is missing") from None


def read_columns(
    file: InputFile,
    choose: Callable[[Sequence[str]], Mapping[str, Column]],
    *,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read the columns that `choose` picks from the names in the header or in the first object.

    Returns them under the keys of `choose`, as int32 or float64 (n,), with "line", the line of
    each row. Rows are parsed into flat arrays, so a million rows take tens of megabytes beside the
    file. `choose` may raise ValueError. `on_progress` gets the share that is read, 0 to 1. Raises
    UserError naming file and line.
    """
    rows: _CsvRows | _JsonRows | None = None
    raw = io.BytesIO(file.data)

    def tell() -> None:
        if on_progress is not None:
            on_progress(raw.tell() / len(file.data))

    try:
        with file.unpacked(raw) as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            rows = _open(next(lines, ""), lines)
            return _collect(rows, choose(rows.names), tell)
    except UnicodeDecodeError as error:
        raise UserError(f"{file.path} is not a text file in UTF-8: {error.reason}") from error
    except (ValueError, csv.Error) as error:
        line = 1 if rows is None else rows.line
        raise UserError(f"{file.path} line {line}: {error}") from None


def _open(first: str, lines: Iterator[str]) -> _CsvRows | _JsonRows:
    """The rows of a file, known by its first line."""
    start = first.lstrip()[:1]
    if start == "[":
        raise ValueError(
            "a JSON list is no trace: 'bench data convert FILE OUT --tokenizer DIR' counts the "
            "tokens of ShareGPT's"
        )
    return _JsonRows(first, lines) if start == "{" else _CsvRows(chain([first], lines))


def _collect(
    rows: _CsvRows | _JsonRows, columns: Mapping[str, Column], tell: Callable[[], None]
) -> dict[str, NDArray[Any]]:
    lines = array("i")
    values = {key: array(column.typecode) for key, column in columns.items()}
    cells = [(c.name, values[key].append, c.parse) for key, c in columns.items()]
    for fields in rows.values([column.name for column in columns.values()]):
        for (name, append, parse), field in zip(cells, fields, strict=True):
            try:
                append(parse(field))
            except ValueError as error:
                raise ValueError(f"{shown(name)} {error}") from None
        lines.append(rows.line)
        if len(lines) % _TELL_EVERY == 0:
            tell()
    if not lines:
        raise ValueError("there are no rows below the header")
    return {
        key: np.frombuffer(data, dtype=np.float64 if data.typecode == "d" else np.int32)
        for key, data in {**values, "line": lines}.items()
    }


def csv_bytes(columns: Mapping[str, NDArray[Any]], *, compress: bool = False) -> bytes:
    """Columns of equal length as CSV, from which the same numbers are read."""
    parts = [",".join(columns) + "\n"]
    for first in range(0, len(next(iter(columns.values()))), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        rows = zip(*(column[part].tolist() for column in columns.values()), strict=True)
        parts.append("".join(",".join(map(repr, row)) + "\n" for row in rows))
    content = "".join(parts).encode()
    # No time inside: equal columns give equal bytes.
    return gzip.compress(content, mtime=0) if compress else content
