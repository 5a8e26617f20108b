"""Run a set of points into the store, at any place: plan, run, retry, summarise."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import environment
from bench.results.store import Store, name_of
from bench.sweep.local import LocalProcesses
from bench.sweep.place import Ended, Job, Place
from bench.sweep.plan import make_plan, weight
from engines.core.errors import UserError


@dataclass(frozen=True)
class Summary:
    """What became of the points.

    `kept` are stale measured results that were not run again. `unfinished` points were stopped by
    Ctrl-C or by a full disk.
    """

    done: tuple[PointSpec, ...] = ()
    skipped: tuple[PointSpec, ...] = ()
    kept: tuple[PointSpec, ...] = ()
    failed: tuple[Ended, ...] = ()
    unfinished: tuple[PointSpec, ...] = ()
    interrupted: bool = False
    elapsed_s: float = 0.0

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 1 if a point failed, else 0."""
        if self.interrupted:
            return 130
        return 1 if self.failed else 0


def total(summaries: Iterable[Summary]) -> Summary:
    """What became of the points of several runs in a row; what one ran, later ones skipped."""
    runs = list(summaries)

    def every(name: str) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(one for run in runs for one in getattr(run, name)))

    done = every("done")
    return Summary(
        done=done,
        skipped=tuple(spec for spec in every("skipped") if spec not in set(done)),
        kept=every("kept"),
        failed=every("failed"),
        unfinished=every("unfinished"),
        interrupted=any(run.interrupted for run in runs),
        elapsed_s=sum(run.elapsed_s for run in runs),
    )


def run_points(
    store: Store,
    specs: Iterable[PointSpec],
    *,
    place: Place | None = None,
    force: bool | datetime = False,
    display: Display | None = None,
) -> Summary:
    """Run every point that is not complete, in parallel at `place` (default: this machine).

    `force` runs complete points again. If several commands share the work, all are given the same
    time as `force`, and points started since then count as complete. Ctrl-C ends all workers and
    returns with `interrupted`. Raises UserError if the store is not writable or nothing can run
    at the place.
    """
    began = time.monotonic()
    store.prepare()
    plan = make_plan(store, specs, force=bool(force))
    display = display or Display()
    for note in plan.notes:
        display.note(note)
    ends: list[Ended] = []
    interrupted = False
    if plan.run:
        measured = any(spec.measured for spec in plan.run)
        shared = environment(source=store.source, gpu=measured)
        since = force if isinstance(force, datetime) else datetime.now(UTC)
        heaviest_first = tuple(sorted(plan.run, key=weight, reverse=True))
        job = Job(store, heaviest_first, shared, since if force else None)
        with display.over({spec: weight(spec) for spec in plan.run}):
            try:
                _run_all(job, place or LocalProcesses(), display, ends)
            except KeyboardInterrupt:
                interrupted = True
    settled = {ended.spec for ended in ends}
    by_others = [ended.spec for ended in ends if ended.by_other]
    return Summary(
        done=tuple(ended.spec for ended in ends if not (ended.error or ended.by_other)),
        skipped=(*plan.skipped, *by_others),
        kept=plan.kept,
        failed=tuple(ended for ended in ends if ended.error),
        unfinished=tuple(spec for spec in plan.run if spec not in settled),
        interrupted=interrupted,
        elapsed_s=time.monotonic() - began,
    )


def _run_all(
    job: Job, place: Place, display: Display, ends: list[Ended], *, retries: bool = True
) -> None:
    """Run all points, then once more those whose process died; stop early on a full disk.

    What became of each is added to `ends`.
    """
    again = []
    with closing(place.bring(job, display)) as brought:
        for ended in brought:
            if ended.retry and retries:
                display.note(f"{name_of(ended.spec)}: {ended.error}; retrying once")
                again.append(ended.spec)
                continue
            display.end(ended.spec, error=ended.error)
            ends.append(ended)
            if ended.error:
                with suppress(UserError):  # on a full disk the failure is still named at the end
                    job.store.write_failure(
                        ended.spec, error=ended.error, traceback=ended.traceback
                    )
            if ended.fatal:
                return
    if again:
        _run_all(replace(job, specs=tuple(again)), place, display, ends, retries=False)
