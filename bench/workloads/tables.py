"""Reads CSV tables of numbers; every error names the file and the line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        largest = LARGEST_INT if self.integer else sys.float_info.max
        with suppress(ValueError):
            value = int(text) if self.integer else float(text)
            if self.minimum <= value <= largest and "_" not in text:
                return value
        kind = (
            f"a whole number from {self.minimum} to {LARGEST_INT}"
            if self.integer
            else f"a finite number of at least {self.minimum}"
        )
        raise ValueError(f"{self.name} must be {kind}, got '{text.strip()[:40]}'")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_table(path: Path, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Read the named columns: int32 for whole numbers, float64 otherwise; others are ignored.

    The file is gzip-compressed if its name ends in .gz. Rows are streamed into flat arrays, so a
    million rows take tens of megabytes. Optional columns that the header lacks are left out.
    Raises UserError naming file and line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text, quoting=csv.QUOTE_NONE)
            return _read(lines, columns)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file in UTF-8: {error.reason}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} line {max(1, lines.line_num)}: {error}") from None


def _read(lines: Iterator[list[str]], columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    names = [name.strip() for name in next(lines, [])]
    _check_header(names, columns)
    present = [column for column in columns if column.name in names]
    places = [names.index(column.name) for column in present]
    values: list[array[float]] = [array("i" if c.integer else "d") for c in present]
    for fields in _rows(lines, width=len(names)):
        for column, place, data in zip(present, places, values, strict=True):
            data.append(column.parse(fields[place]))
    if not values[0]:
        raise ValueError("there are no rows below the header")
    return {
        column.name: np.frombuffer(data, dtype=np.int32 if column.integer else np.float64)
        for column, data in zip(present, values, strict=True)
    }


def _check_header(names: list[str], columns: Sequence[Column]) -> None:
    required = [column.name for column in columns if column.required]
    if not any(names):
        raise ValueError(f"the header is empty: it must name the columns {','.join(required)}")
    for name in required:
        if name not in names:
            raise ValueError(f"column {name} is missing: got '{','.join(names)[:80]}'")
    for column in columns:
        if names.count(column.name) > 1:
            raise ValueError(f"column {column.name} is named twice")


def _rows(lines: Iterator[list[str]], *, width: int) -> Iterator[list[str]]:
    """The fields of each row; blank lines may only follow the last one. Raises ValueError."""
    blank = False
    for index, fields in enumerate(lines):
        if not "".join(fields).strip():
            blank = True
        elif blank:
            raise ValueError("blank line above this row")
        elif len(fields) != width:
            raise ValueError(f"{width} fields expected, got {len(fields)}")
        elif index == MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} rows: split the file")
        else:
            yield fields
