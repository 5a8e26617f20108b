"""Traces from files: CSV with columns arrival_s,input_len,output_len and optionally prefix_len."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.workloads.lengths import LENGTH_COLUMNS
from bench.workloads.tables import FIRST_ROW_LINE, Column, read_table
from engines.core.errors import UserError

TRACE_COLUMNS = (
    Column("arrival_s", 0, integer=False),
    *LENGTH_COLUMNS,
    Column("prefix_len", 0, required=False),
)


@dataclass(frozen=True)
class Trace:
    """Requests of a trace: seconds from its start and tokens, (n,) each."""

    arrival_s: NDArray[np.float64]
    input_len: NDArray[np.int32]
    output_len: NDArray[np.int32]
    prefix_len: NDArray[np.int32]


def read_trace(path: Path, *, max_model_len: int) -> Trace:
    """Read and check a trace (.csv or .csv.gz).

    Raises UserError naming file and line for a missing column, a field that is not a number or
    too small, arrivals that go back in time, a prefix that leaves no prompt of its own, and a
    request longer than `max_model_len`.
    """
    table = read_table(path, TRACE_COLUMNS)
    table.setdefault("prefix_len", np.zeros(len(table["input_len"]), dtype=np.int32))
    trace = Trace(**table)
    arrival_s, input_len, prefix_len = trace.arrival_s, trace.input_len, trace.prefix_len
    for row in np.flatnonzero(np.diff(arrival_s) < 0)[:1] + 1:
        raise UserError(
            f"{path} line {FIRST_ROW_LINE + row}: arrival_s {arrival_s[row]:g} is before "
            f"the line above ({arrival_s[row - 1]:g}): sort the trace by arrival_s"
        )
    for row in np.flatnonzero(prefix_len >= input_len)[:1]:  # an input is at least 1
        raise UserError(
            f"{path} line {FIRST_ROW_LINE + row}: prefix_len must be less than input_len, got "
            f"{prefix_len[row]} and {input_len[row]}"
        )
    total = input_len.astype(np.int64) + trace.output_len
    for row in np.flatnonzero(total > max_model_len)[:1]:
        raise UserError(
            f"{path} line {FIRST_ROW_LINE + row}: input_len + output_len is {total[row]}, more "
            f"than the model's context of {max_model_len} tokens: shorten or remove the request, "
            "or choose a model with a longer context"
        )
    return trace
