"""Stand-ins for `bench.point.serve.run_point` that succeed, fail, crash or hang on purpose.

Workers import them by name. A directory for marks is passed in the spec's `trace`, which none of
them reads as a trace.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.point.platform import Progress
from bench.point.serve import Outcome, run_point
from bench.point.spec import PointSpec
from bench.progress import Display, Work
from bench.results.provenance import provenance_of
from bench.results.store import Store
from bench.sweep.local import LocalProcesses
from bench.sweep.runner import run_points
from engines.core.errors import LostWorkerError, UserError

TROUBLE = 7  # the seed of the point that misbehaves


class Recorder(Display):
    """Remembers what is told of points."""

    def __init__(self) -> None:
        self.begun: list[Work] = []
        self.shares: list[float] = []
        self.errors: list[str] = []
        self.notes: list[str] = []

    def begin(self, spec: Work) -> None:
        self.begun.append(spec)

    def advance(self, spec: Work, fraction: float) -> None:
        self.shares.append(fraction)

    def end(self, spec: Work, *, error: str = "") -> None:
        self.errors.append(error)

    def note(self, line: str) -> None:
        self.notes.append(line)


def specs(count: int, marks: Path | None = None) -> list[PointSpec]:
    """Points with seeds 0 to count - 1."""
    trace = None if marks is None else str(marks)
    return [PointSpec(system="astra", seed=seed, trace=trace) for seed in range(count)]


def outcome(spec: PointSpec, rows: int = 5) -> Outcome:
    """A result that depends on the spec alone, but for its times."""
    generator = np.random.default_rng(spec.seed)
    metrics: dict[str, Any] = {
        "system": spec.system,
        "device": "1x a100-40gb",
        "mean_normalized_latency_s": float(generator.random()),
        "mean_tpot_s": None,
        "kv_pct": {"token": 90.0, "reservation": np.float64(1.5)},
        "wall_s": time.perf_counter(),
        "host_us_per_step": time.perf_counter(),
    }
    requests = {"request_id": np.arange(rows), "finish_s": generator.random(rows)}
    return Outcome(metrics, requests, {"workload": {"sha256": "0"}})


def provenance(spec: PointSpec, source: str, **facts: Any) -> dict[str, Any]:
    """Where a made-up result comes from."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    shared = {"source_sha256": source, **facts}
    return provenance_of(spec, shared=shared, inputs={}, started=moment, ended=moment)


def mark(spec: PointSpec, what: str) -> None:
    """Leave a mark that a test can see."""
    assert spec.trace is not None
    (Path(spec.trace) / f"{what}-{spec.seed}-{os.getpid()}").touch()


def succeed(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if on_progress is not None:
        on_progress(0.5)
    return outcome(spec)


def count_runs(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    mark(spec, "run")
    time.sleep(0.05)
    return outcome(spec)


def fail(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.seed == TROUBLE:
        raise ValueError("broken\nin two lines")
    return outcome(spec)


def refuse(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.seed == TROUBLE:
        mark(spec, "run")
        raise UserError("this model does not fit")
    return outcome(spec)


def refuse_high_rates(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.rate > 1:
        raise UserError("too fast")
    return run_point(spec, on_progress=on_progress)


def crash(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.seed == TROUBLE:
        mark(spec, "run")
        os.kill(os.getpid(), signal.SIGSEGV)
    return outcome(spec)


def crash_once(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    assert spec.trace is not None
    first = not list(Path(spec.trace).glob(f"run-{spec.seed}-*"))
    mark(spec, "run")
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome(spec)


def lose_a_worker(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    assert spec.trace is not None
    mark(spec, "run")
    raise LostWorkerError("rank 1 is gone")


def hang(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """Finish seeds 0 and 1 at once; everything else takes forever."""
    mark(spec, "run")
    if spec.seed > 1:
        time.sleep(600)
    return outcome(spec)


def large(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    return outcome(spec, rows=100_000)


def large_second(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """The first point ends at once, the second is large, and all others take forever.

    The fourth starts in the place of the first, which is booked by then; the second waits for that.
    """
    mark(spec, "run")
    if spec.seed > 1:
        time.sleep(600)
    if spec.seed == 1:
        assert spec.trace is not None
        while not list(Path(spec.trace).glob("run-3-*")):
            time.sleep(0.02)
    return outcome(spec, rows=5 if spec.seed == 0 else 100_000)


def main(root: str, run_name: str, count: str, marks: str) -> None:
    """Run points in a process of its own, print a summary and exit as `bench` would."""
    summary = run_points(
        Store(root),
        specs(int(count), Path(marks)),
        place=LocalProcesses(jobs=3, run=globals()[run_name]),
    )
    told = {
        "done": [spec.seed for spec in summary.done],
        "skipped": [spec.seed for spec in summary.skipped],
        "failed": {failure.spec.seed: failure.error for failure in summary.failed},
        "unfinished": [spec.seed for spec in summary.unfinished],
    }
    print(json.dumps(told))
    sys.exit(summary.exit_status)


if __name__ == "__main__":
    main(*sys.argv[1:])
