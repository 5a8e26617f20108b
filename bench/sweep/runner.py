"""Run a set of points into the store, at any place: plan, run, retry, summarise."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
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
    run = _Run(store, display)
    if plan.run:
        measured = any(spec.measured for spec in plan.run)
        shared = environment(source=store.source, gpu=measured)
        since = force if isinstance(force, datetime) else datetime.now(UTC)
        heaviest_first = tuple(sorted(plan.run, key=weight, reverse=True))
        job = Job(store, heaviest_first, shared, since if force else None)
        with display.over({spec: weight(spec) for spec in plan.run}):
            run.drain(job, place or LocalProcesses())
    settled = {*run.done, *run.by_others, *(failure.spec for failure in run.failed)}
    return Summary(
        done=tuple(run.done),
        skipped=(*plan.skipped, *run.by_others),
        kept=plan.kept,
        failed=tuple(run.failed),
        unfinished=tuple(spec for spec in plan.run if spec not in settled),
        interrupted=run.interrupted,
        elapsed_s=time.monotonic() - began,
    )


@dataclass
class _Run:
    """The outcomes so far."""

    store: Store
    display: Display
    done: list[PointSpec] = field(default_factory=list)
    by_others: list[PointSpec] = field(default_factory=list)
    failed: list[Ended] = field(default_factory=list)
    interrupted: bool = False

    def drain(self, job: Job, place: Place) -> None:
        """Run all points, then retry once those whose process died; stop early on a full disk."""
        try:
            again = self._pass(job, place, retries=True)
            if again:
                self._pass(replace(job, specs=tuple(again)), place, retries=False)
        except KeyboardInterrupt:
            self.interrupted = True

    def _pass(self, job: Job, place: Place, *, retries: bool) -> Sequence[PointSpec]:
        """Run the points; returns those to retry."""
        again = []
        with closing(place.bring(job, self.display)) as ends:
            for ended in ends:
                if ended.retry and retries:
                    self.display.note(f"{name_of(ended.spec)}: {ended.error}; retrying once")
                    again.append(ended.spec)
                    continue
                self._book(ended)
                if ended.fatal:
                    return ()
        return again

    def _book(self, ended: Ended) -> None:
        self.display.end(ended.spec, error=ended.error)
        if ended.error:
            self.failed.append(ended)
            with suppress(UserError):  # on a full disk the failure is still named at the end
                self.store.write_failure(ended.spec, error=ended.error, traceback=ended.traceback)
        else:
            (self.by_others if ended.by_other else self.done).append(ended.spec)
