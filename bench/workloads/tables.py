"""Reads CSV tables of numbers; every error names the file and the line."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engines.core.errors import UserError

MAX_ROWS = 10_000_000
LARGEST_INT = 2**31 - 1
FIRST_ROW_LINE = 2  # line 1 is the header; row r of a table stands on line FIRST_ROW_LINE + r


@dataclass(frozen=True)
class Column:
    """One column: its name, its smallest value, whether whole numbers are required."""

    name: str
    minimum: int
    integer: bool = True
    required: bool = True

    def parse(self, text: str) -> float:
        """Return the number; raises ValueError with a clear message for any other text."""
        try:
            value = int(text) if self.integer else float(text)
        except ValueError:
            value = math.nan
        if "_" in text or not self.minimum <= value <= (LARGEST_INT if self.integer else math.inf):
            raise ValueError(f"{self.name} must be {self._kind}, got '{text.strip()[:40]}'")
        if math.isinf(value):
            raise ValueError(f"{self.name} must be finite, got '{text.strip()[:40]}'")
        return value

    @property
    def _kind(self) -> str:
        if self.integer:
            return f"a whole number from {self.minimum} to {LARGEST_INT}"
        return f"a number of at least {self.minimum}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file, gzip-compressed if its name ends in .gz; raises UserError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as text:
            yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8: {error.reason}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_table(path: Path, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Read the named columns: int32 for whole numbers, float64 otherwise; others are ignored.

    Rows are streamed into flat arrays, so a million rows take tens of megabytes. Optional columns
    that the header lacks are left out. Raises UserError naming file and line.
    """
    with open_text(path) as lines:
        header = lines.readline()
        names = [name.strip() for name in header.split(",")]
        _check_header(path, header, names, columns)
        present = [column for column in columns if column.name in names]
        places = [names.index(column.name) for column in present]
        values: list[array[float]] = [array("i" if c.integer else "d") for c in present]
        for number, fields in _rows(path, lines, width=len(names)):
            try:
                for column, place, data in zip(present, places, values, strict=True):
                    data.append(column.parse(fields[place]))
            except ValueError as error:
                raise UserError(f"{path} line {number}: {error}") from None
    if not values[0]:
        raise UserError(f"{path} has no rows below its header")
    return {
        column.name: np.frombuffer(data, dtype=np.int32 if column.integer else np.float64)
        for column, data in zip(present, values, strict=True)
    }


def _check_header(path: Path, header: str, names: list[str], columns: Sequence[Column]) -> None:
    required = [column.name for column in columns if column.required]
    if not header.strip():
        raise UserError(
            f"{path} is empty: its first line must name the columns {','.join(required)}"
        )
    for name in required:
        if name not in names:
            raise UserError(f"{path} line 1: column {name} is missing: got '{header.strip()[:80]}'")
    for column in columns:
        if names.count(column.name) > 1:
            raise UserError(f"{path} line 1: column {column.name} is named twice")


def _rows(path: Path, lines: Iterable[str], *, width: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row; blank lines may only follow the last one."""
    blank_line = 0
    for number, line in enumerate(lines, start=FIRST_ROW_LINE):
        if not line.strip():
            blank_line = blank_line or number
            continue
        if blank_line:
            raise UserError(f"{path} line {blank_line}: blank line between rows")
        fields = line.split(",")
        if len(fields) != width:
            raise UserError(f"{path} line {number}: {width} fields expected, got {len(fields)}")
        if number - FIRST_ROW_LINE == MAX_ROWS:
            raise UserError(f"{path} line {number}: more than {MAX_ROWS} rows: split the file")
        yield number, fields
