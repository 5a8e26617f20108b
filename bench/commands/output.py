"""What commands print: results and tables on standard output, the rest on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.files import plain
from bench.progress import choose, clock
from bench.results.store import Store
from bench.sweep.runner import Summary
from engines.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 120
_LONG_FILE_BYTES = 4 << 20
_STYLES = {
    **dict.fromkeys(("ok", "pass"), "green"),
    **dict.fromkeys(("warn", "open", "incomplete"), "yellow"),
    "fail": "red",
    "not run": "bright_black",
}


def say(line: str, *, keep: str = "") -> None:
    """Print a line of results; unprintable signs are shown as escapes, except those to `keep`."""
    click.echo(printable(line, keep=keep))


def say_marked(style: str, words: str, rest: str) -> None:
    """Print a line of results that begins with words in a style of Rich's, folded at words."""
    from rich.text import Text

    _console().print(Text.assemble((printable(words), style), printable(rest)))


def note(line: str) -> None:
    """Print a line that is no result on standard error, like `say`."""
    click.echo(printable(line), err=True)


def pass_on(content: bytes, *, err: bool = False) -> None:
    """Print what a container has printed, as it is."""
    click.echo(content, nl=False, err=err)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print plain values, or NumPy's, as JSON in ASCII."""
    click.echo(json.dumps(plain(value), indent=indent, allow_nan=False))


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    right: Container[int] = (),
    narrow: bool = False,
) -> None:
    """Print rows of plain text under a header; see `say` for what is no plain text.

    Columns `right` hold numbers, aligned to the right on one line. A narrow table has no lines
    between columns.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = box.SIMPLE_HEAD if narrow else box.HEAVY_HEAD
    table = Table(box=lines, pad_edge=not narrow, title=title, title_justify="left")
    for index, name in enumerate(header):
        number = index in right
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        table.add_row(*(Text(printable(cell), style=_STYLES.get(cell, "")) for cell in row))
    _console().print(table)


def rows_of(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values for `print_table`: a row for each part of a value with parts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {part}", _tell(number)) for part, number in value.items())
        else:
            yield name, _tell(value)


def _tell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"  # there was nothing to average
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _console() -> Console:
    """A console on standard output: as wide as the terminal, or wide enough for a pipe."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def show_reading(path: Path, *, quiet: bool) -> AbstractContextManager[Callable[[float], None]]:
    """Show progress while a file is read, if it is so long that anyone waits for it."""
    short = path.stat().st_size < _LONG_FILE_BYTES
    return choose(quiet=quiet or short).single(f"reading {path.name}")


def tell_summary(summary: Summary, store: Store) -> None:
    """Say on standard error what became of the points; failed ones last, by name."""
    counts = {
        "run": len(summary.done),
        "already complete": len(summary.skipped),
        "kept though stale": len(summary.kept),
        "failed": len(summary.failed),
        "not run": len(summary.unfinished),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    stopped = "interrupted: " if summary.interrupted else ""
    note(f"{stopped}points: {told or 'none'} in {clock(summary.elapsed_s)}")
    if summary.interrupted:
        note("the same command again goes on from here")
    for failure in summary.failed:
        note(f"failed: {store.directory(failure.spec).name}: {failure.error}")
