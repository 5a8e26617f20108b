"""Replaying a trace: which of its requests are served, and when."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads.build import Stream, Workload
from bench.workloads.tables import MAX_ROWS
from bench.workloads.traces import Trace, from_start
from engines.core.errors import UserError


class TooLong(StrEnum):
    """What becomes of a request that is longer than the model's context."""

    DROP = "drop"
    ERROR = "error"
    TRUNCATE = "truncate"


class ZeroOutput(StrEnum):
    """What becomes of a request with no tokens in its output, or none in its prompt."""

    DROP = "drop"
    ONE = "one"
    ERROR = "error"


@dataclass(frozen=True)
class Selection:
    """Which requests of a trace are served: times in seconds of the trace, before `speed`."""

    too_long: TooLong = TooLong.ERROR
    zero_output: ZeroOutput = ZeroOutput.ERROR
    limit: int | None = None
    start: float | None = None
    end: float | None = None
    speed: float = 1.0

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain values."""
        values = {field: getattr(self, field.name) for field in fields(Selection)}
        return {field.name: value for field, value in values.items() if value != field.default}


def replay(
    trace: Trace, selection: Selection, *, rate: float, seed: int, max_model_len: int
) -> Workload:
    """Make a workload of a trace.

    A trace without arrivals gets those of a Poisson process with `rate` requests per second, drawn
    from the seed. Raises UserError if nothing is left, or for requests that the selection does not
    say what to do with.
    """
    notes = trace.notes
    if trace.arrival_s is None:
        gaps_s = Stream.TRACE_ARRIVALS.generator(seed).exponential(1 / rate, len(trace))
        trace = replace(trace, arrival_s=np.cumsum(gaps_s))
        notes = (*notes, f"no arrivals in the file: Poisson at {rate:g} requests/s (--rate)")
    chosen, dropped = _select(trace, selection, max_model_len=max_model_len)
    arrival_s = _arrivals_of(chosen)
    last_s = float(arrival_s[-1])
    duration_s = last_s if last_s > arrival_s[0] else last_s + 1.0  # all at once: in a second
    options = selection.given() | ({"columns": trace.columns} if trace.columns else {})
    return Workload(
        "trace",
        _describe(trace, options),
        arrival_s,
        chosen.input_len,
        chosen.output_len,
        chosen.prefix_len,
        rate=len(chosen) / duration_s,
        duration_s=duration_s,
        files={"trace": trace.sha256},
        trace={
            "format": trace.source,
            "rows": len(trace),
            "dropped": dropped,
            "options": options,
            "notes": list(notes),
        },
    )


def _arrivals_of(trace: Trace) -> NDArray[np.float64]:
    assert trace.arrival_s is not None, "a trace without arrivals has been given some"
    return trace.arrival_s


def _select(
    trace: Trace, selection: Selection, *, max_model_len: int
) -> tuple[Trace, dict[str, int]]:
    """The requests of a trace with arrivals that are served, and by reason how many are not.

    The time is cut first, then lengths are held against the model's context, then requests are
    counted. Raises UserError as `replay` does.
    """
    inside = _between(trace, selection.start, selection.end)
    some = _with_tokens(inside, selection.zero_output)
    fitting, truncated = _fitting(some, selection.too_long, max_model_len)
    chosen = fitting.take(slice(selection.limit))
    dropped = {
        "outside": len(trace) - len(inside),  # of --start and --end
        "zero_output": len(inside) - len(some),
        "too_long": len(some) - len(fitting),
        "beyond_limit": len(fitting) - len(chosen),
        "truncated": truncated,  # served, but shortened
    }
    path = trace.path
    if not len(chosen):
        reasons = (f"{n:,} {name.replace('_', ' ')}" for name, n in dropped.items() if n)
        raise UserError(f"{path}: no request is left ({', '.join(reasons)}): choose other options")
    if len(chosen) > MAX_ROWS:
        raise UserError(
            f"{path}: {len(chosen):,} requests are more than {MAX_ROWS:,}: give --limit, or "
            "--start and --end"
        )
    return replace(chosen, arrival_s=_arrivals_of(chosen) / selection.speed), dropped


def _between(trace: Trace, start: float | None, end: float | None) -> Trace:
    """The requests that arrive from `start` to before `end`, counted from `start`."""
    if start is None and end is None:
        return trace
    arrival_s, start = _arrivals_of(trace), start or 0.0
    first, last = np.searchsorted(arrival_s, [start, math.inf if end is None else end])
    inside = trace.take(slice(first, last))
    return replace(inside, arrival_s=from_start(arrival_s[first:last] - start))


def _with_tokens(trace: Trace, how: ZeroOutput) -> Trace:
    """The requests, without or with one token for those of none; raises UserError."""
    some = (trace.input_len > 0) & (trace.output_len > 0)
    if some.all():
        return trace
    if how is ZeroOutput.DROP:
        return trace.take(some)
    if how is ZeroOutput.ERROR:
        raise UserError(
            f"{trace.path}: {_count(trace, ~some)} have no tokens in their output or prompt: "
            "give --zero-output drop to leave them out, or one to serve them with one token"
        )
    lengths = (np.maximum(trace.input_len, 1), np.maximum(trace.output_len, 1))
    return replace(trace, input_len=lengths[0], output_len=lengths[1])


def _fitting(trace: Trace, how: TooLong, context: int) -> tuple[Trace, int]:
    """The requests that fit the context, and how many were cut to it; raises UserError.

    A request is cut at its prompt first, which keeps at least one token.
    """
    total = trace.input_len.astype(np.int64) + trace.output_len
    long = total > context
    if not long.any():
        return trace, 0
    if how is TooLong.DROP:
        return trace.take(~long), 0
    if how is TooLong.ERROR:
        raise UserError(
            f"{trace.path}: {_count(trace, long)} are longer than the model's context of "
            f"{context} tokens: give --too-long drop to leave them out, or truncate, or choose a "
            "model with a longer context"
        )
    output_len = np.minimum(trace.output_len, context - 1)
    input_len = np.minimum(trace.input_len, context - output_len)
    prefix_len = np.minimum(trace.prefix_len, input_len - 1)
    cut = replace(trace, input_len=input_len, output_len=output_len, prefix_len=prefix_len)
    return cut, int(long.sum())


def _count(trace: Trace, rows: NDArray[np.bool_]) -> str:
    first = int(np.flatnonzero(rows)[0])
    lengths = f"{trace.input_len[first]} + {trace.output_len[first]} tokens"
    return (
        f"{int(rows.sum()):,} of {len(trace):,} requests (the first on line {trace.line[first]}: "
        f"{lengths})"
    )


def _describe(trace: Trace, options: Mapping[str, Any]) -> str:
    """What the requests are: the file and the options, and a hash that covers both."""
    name, sha256 = trace.path.name, trace.sha256
    if not options:
        return f"trace {name} (sha256 {sha256})"
    text = json.dumps([sha256, options], sort_keys=True)
    told = ", ".join(options)
    return f"trace {name}, its {told} chosen (sha256 {hashlib.sha256(text.encode()).hexdigest()})"
