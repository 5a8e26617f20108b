"""Bring a set of points into the store, wherever they run: plan, run, retry, tell."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import environment
from bench.results.store import MEASURED, Store, name_of
from bench.sweep.local import LocalProcesses
from bench.sweep.plan import make_plan, weight
from bench.sweep.pool import Ended, Place, Pool, Undertaking
from bench.sweep.worker import Failed, Finished
from engines.core.errors import UserError

_ATTEMPTS = 2  # a worker that dies without a word is given one more chance


@dataclass(frozen=True)
class Failure:
    """A point that did not succeed, and why, in one line."""

    spec: PointSpec
    error: str


@dataclass(frozen=True)
class Summary:
    """What became of the points.

    `kept` are stale measured results that were left as they are. `unfinished` points were cut off
    by Ctrl-C or by a full disk.
    """

    done: tuple[PointSpec, ...] = ()
    skipped: tuple[PointSpec, ...] = ()
    kept: tuple[PointSpec, ...] = ()
    failed: tuple[Failure, ...] = ()
    unfinished: tuple[PointSpec, ...] = ()
    interrupted: bool = False
    elapsed_s: float = 0.0

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C, 1 if a point failed, else 0."""
        if self.interrupted:
            return 130
        return 1 if self.failed else 0


@dataclass
class _Tally:
    """What has become of the points so far."""

    done: list[PointSpec] = field(default_factory=list)
    by_others: list[PointSpec] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


def run_points(
    store: Store,
    specs: Iterable[PointSpec],
    *,
    place: Place | None = None,
    force: bool = False,
    display: Display | None = None,
) -> Summary:
    """Bring every point into the store, in parallel at `place` (default: this machine).

    Ctrl-C ends all workers and returns with `interrupted`. Raises UserError if the store cannot be
    written or nothing can run at the place.
    """
    store.prepare()
    plan = make_plan(store, specs, force=force)
    display = display or Display()
    for note in plan.notes:
        display.note(note)
    tally = _Tally()
    began, interrupted = time.monotonic(), False
    if plan.run:
        measured = any(spec.backend in MEASURED for spec in plan.run)
        shared = environment(source=store.source, gpu=measured)
        undertaking = Undertaking(store, plan.run, shared, force)
        pool = (place or LocalProcesses()).open(undertaking, display)
        with display.over({spec: weight(spec) for spec in plan.run}):
            interrupted = _Run(store, pool, tally, display).drain(plan.run)
    settled = {*tally.done, *tally.by_others, *(failure.spec for failure in tally.failed)}
    return Summary(
        done=tuple(tally.done),
        skipped=(*plan.skipped, *tally.by_others),
        kept=plan.kept,
        failed=tuple(tally.failed),
        unfinished=tuple(spec for spec in plan.run if spec not in settled),
        interrupted=interrupted,
        elapsed_s=time.monotonic() - began,
    )


class _Run:
    """Feeds a pool with points until all have ended."""

    def __init__(self, store: Store, pool: Pool, tally: _Tally, display: Display) -> None:
        self._store = store
        self._pool = pool
        self._tally = tally
        self._display = display
        self._waiting: list[PointSpec] = []  # taken from the end
        self._attempts: dict[PointSpec, int] = {}
        self._doomed = False  # whether no other point can succeed

    def drain(self, specs: Sequence[PointSpec]) -> bool:
        """Run all points, the heaviest first; returns whether Ctrl-C ended it early.

        A full disk ends it too, since no other point could be written.
        """
        self._waiting = sorted(specs, key=weight, reverse=True)[::-1]
        try:
            while (self._waiting or self._pool.busy) and not self._doomed:
                self._fill()
                for ended in self._pool.listen(self._display):
                    self._take(ended)
        except KeyboardInterrupt:
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self._pool.stop()
            finally:
                signal.signal(signal.SIGINT, previous)
            return True
        except BaseException:
            self._pool.stop()
            raise
        self._pool.stop()  # of what is kept ready for further points, or cannot succeed
        return False

    def _fill(self) -> None:
        """Start what there is room for, in order: a light point never overtakes a heavier one."""
        while self._waiting and self._pool.has_room(self._waiting[-1]):
            spec = self._waiting.pop()
            self._attempts[spec] = self._attempts.get(spec, 0) + 1
            self._display.begin(spec)
            self._pool.start(spec)

    def _take(self, ended: Ended) -> None:
        """Book a worker that has ended, or try its point once more."""
        spec, outcome = ended.spec, ended.outcome
        if isinstance(outcome, Finished):
            (self._tally.by_others if outcome.by_other else self._tally.done).append(spec)
            self._display.end(spec)
            return
        failed = outcome or Failed(ended.death, retry=True)
        if failed.retry and self._attempts[spec] < _ATTEMPTS:
            self._display.note(f"{name_of(spec)}: {failed.error}; trying once more")
            self._waiting.append(spec)
            return
        self._tally.failed.append(Failure(spec, failed.error))
        self._display.end(spec, error=failed.error)
        with suppress(UserError):  # on a full disk the failure is still named at the end
            self._store.write_failure(spec, error=failed.error, traceback=failed.traceback)
        self._doomed = self._doomed or failed.fatal
