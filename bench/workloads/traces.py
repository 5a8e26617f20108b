"""Traces from files: when requests arrived and how long they were, in any published format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads.formats import OURS, Arrivals, length_columns, recognise
from bench.workloads.tables import Column, InputFile, read_columns
from engines.core.errors import UserError

LONGEST_LEAD_S = 60.0
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Trace:
    """Requests of a trace in order of arrival, (n,) each: seconds, tokens, lines of the file.

    `path` and `sha256` are those of the file as it was read. `arrival_s` is None if the file has
    lengths alone. `source` names the format, `columns` those that the user named, and `notes` say
    what was done to the arrivals.
    """

    path: Path
    sha256: str
    source: str
    arrival_s: NDArray[np.float64] | None
    input_len: NDArray[np.int32]
    output_len: NDArray[np.int32]
    prefix_len: NDArray[np.int32]
    line: NDArray[np.int32]
    columns: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.input_len)

    def take(self, rows: NDArray[Any] | slice) -> Trace:
        """The requests at `rows`, in that order."""
        arrival_s = None if self.arrival_s is None else self.arrival_s[rows]
        names = ("input_len", "output_len", "prefix_len", "line")
        return replace(self, arrival_s=arrival_s, **{n: getattr(self, n)[rows] for n in names})


def read_trace(
    file: InputFile,
    columns: Mapping[str, str] = MappingProxyType({}),
    *,
    on_progress: Callable[[float], None] | None = None,
) -> Trace:
    """Read a trace, CSV or JSON lines, plain or gzip, in any of the known formats.

    `columns` name others, by the keys of `COLUMN_KEYS`; `on_progress` gets the share that is read,
    0 to 1. Arrivals are sorted if they are not, and count from the first one if that is later than
    a minute or a time of day. Raises UserError naming file and line.
    """
    found, arrivals = OURS, Arrivals()

    def choose(names: Sequence[str]) -> dict[str, Column]:
        nonlocal found
        found = recognise(names, columns)
        chosen = length_columns(found)
        if found.arrival:
            chosen["arrival_s"] = Column(found.arrival, arrivals.parse, "d")
        return chosen

    table = read_columns(file, choose, on_progress=on_progress)
    ticks = table.get("arrival_s")
    trace = Trace(
        file.path,
        file.sha256,
        found.source,
        arrival_s=None,
        input_len=table["input_len"],
        output_len=table["output_len"],
        prefix_len=table.get("prefix_len", np.zeros(len(table["line"]), dtype=np.int32)),
        line=table["line"],
        columns=dict(columns),
    )
    _check_prefixes(trace)
    if ticks is None:
        return trace
    if arrivals.are_numbers:
        return _in_order(trace, from_start(ticks, found.ticks_per_s))
    return _in_order(trace, (ticks - ticks.min()) / _NS_PER_S)


def _check_prefixes(trace: Trace) -> None:
    too_long = (trace.prefix_len > 0) & (trace.prefix_len >= trace.input_len)
    for row in np.flatnonzero(too_long)[:1]:
        raise UserError(
            f"{trace.path} line {trace.line[row]}: prefix_len must be less than input_len, "
            f"got {trace.prefix_len[row]} and {trace.input_len[row]}"
        )


def from_start(ticks: NDArray[np.float64], ticks_per_s: float = 1.0) -> NDArray[np.float64]:
    """Arrivals in seconds, counted from the first one if that is later than a minute."""
    first = ticks.min(initial=math.inf)
    if LONGEST_LEAD_S * ticks_per_s < first < math.inf:
        ticks = ticks - first
    return ticks / ticks_per_s


def _in_order(trace: Trace, arrival_s: NDArray[np.float64]) -> Trace:
    trace = replace(trace, arrival_s=arrival_s)
    num_early = int((np.diff(arrival_s) < 0).sum())
    if not num_early:
        return trace
    note = f"sorted by arrival: {num_early} requests were earlier than the one above"
    return replace(trace.take(np.argsort(arrival_s, kind="stable")), notes=(*trace.notes, note))


def our_columns(trace: Trace) -> dict[str, NDArray[Any]]:
    """The trace in our own format; reading it back gives the same arrivals and lengths."""
    columns: dict[str, NDArray[Any]] = {}
    if trace.arrival_s is not None:
        columns["arrival_s"] = trace.arrival_s
    columns |= {"input_len": trace.input_len, "output_len": trace.output_len}
    if trace.prefix_len.any():
        columns["prefix_len"] = trace.prefix_len
    return columns
