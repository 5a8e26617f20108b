"""Run many points, each in a process of its own, so that a crash costs one point and no more."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from bench.plan import make_plan, weight
from bench.point import PointSpec
from bench.progress import Display
from bench.provenance import environment, usable_cores
from bench.results import MEASURED, Store, name_of
from bench.run import run_point
from bench.worker import Advanced, Failed, Finished, RunPoint, Task, work
from engines.core.errors import UserError

_POLL_S = 0.25
_GRACE_S = 2.0  # for a worker to end by itself before it is killed
_ATTEMPTS = 2  # a worker that dies without a word is given one more chance

# What every worker would import again otherwise, at a tenth of a second each.
_PRELOADED = ("__main__", "bench.worker", "numpy.ma", "numpy.random", "pyarrow.parquet")


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
class _Worker:
    """A running process and the runner's end of its pipe."""

    spec: PointSpec
    process: BaseProcess
    channel: Connection
    attempt: int
    outcome: Finished | Failed | None = None


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
    jobs: int | None = None,
    force: bool = False,
    run: RunPoint = run_point,
    display: Display | None = None,
) -> Summary:
    """Bring every point into the store, in parallel processes (default: one per usable core).

    Measured points run one at a time, since they would disturb each other. Ctrl-C ends all
    workers and returns with `interrupted`. Raises UserError if the store cannot be written.
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
        pool = _Pool(store, run=run, shared=shared, force=force)
        limit = 1 if measured else max(1, jobs or usable_cores())
        if measured and jobs is not None and jobs > 1:
            display.note("measured points run one at a time: --jobs is for the simulation")
        with display.over({spec: weight(spec) for spec in plan.run}):
            interrupted = _drain(pool, plan.run, limit=limit, tally=tally, display=display)
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


class _Pool:
    """Starts workers, listens to them and ends them."""

    def __init__(
        self, store: Store, *, run: RunPoint, shared: Mapping[str, Any], force: bool
    ) -> None:
        self.store = store
        self.workers: dict[Connection, _Worker] = {}
        self._run = run
        self._shared = shared
        self._force = force
        self._context = _start_context()

    def start(self, spec: PointSpec, *, attempt: int) -> None:
        """Start a process for one point."""
        ours, theirs = self._context.Pipe()
        task = Task(spec, self.store.root.absolute(), self._run, self._shared, self._force)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=work, args=(task, theirs), name=name_of(spec)
        )
        process.start()
        theirs.close()  # so that the worker's death closes the pipe
        self.workers[ours] = _Worker(spec, process, ours, attempt)

    def listen(self, display: Display) -> list[_Worker]:
        """Take in messages for a moment; returns the workers that have ended."""
        ended = []
        for ready in connection.wait(list(self.workers), timeout=_POLL_S):
            assert isinstance(ready, Connection)
            worker = self.workers[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):
                ended.append(self._retire(worker))
                continue
            if isinstance(message, Advanced):
                display.advance(worker.spec, message.fraction)
            else:
                worker.outcome = message
        return ended

    def _retire(self, worker: _Worker) -> _Worker:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.channel.close()
        del self.workers[worker.channel]
        return worker

    def stop(self) -> None:
        """End all workers, gently at first; what they had not finished is cleared away."""
        for worker in self.workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for worker in list(self.workers.values()):
            worker.process.join(max(0.0, deadline - time.monotonic()))
            self._retire(worker)
        with suppress(UserError):
            self.store.prepare()


def _drain(
    pool: _Pool, specs: Sequence[PointSpec], *, limit: int, tally: _Tally, display: Display
) -> bool:
    """Run all points, the heaviest first; returns whether Ctrl-C ended it early.

    A full disk ends it too, since no other point could be written.
    """
    heaviest_first = sorted(specs, key=weight, reverse=True)
    waiting = [(spec, 1) for spec in reversed(heaviest_first)]  # taken from the end
    try:
        while waiting or pool.workers:
            while waiting and len(pool.workers) < limit:
                spec, attempt = waiting.pop()
                display.begin(spec)
                pool.start(spec, attempt=attempt)
            for worker in pool.listen(display):
                if worker.outcome is None and worker.attempt < _ATTEMPTS:
                    display.note(f"{name_of(worker.spec)}: {_death(worker)}; trying once more")
                    waiting.append((worker.spec, worker.attempt + 1))
                    continue
                _settle(pool.store, worker, tally=tally, display=display)
                if isinstance(worker.outcome, Failed) and worker.outcome.fatal:
                    pool.stop()
                    return False
    except KeyboardInterrupt:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            pool.stop()
        finally:
            signal.signal(signal.SIGINT, previous)
        return True
    except BaseException:
        pool.stop()
        raise
    return False


def _settle(store: Store, worker: _Worker, *, tally: _Tally, display: Display) -> None:
    """Book a worker that has ended for good."""
    if isinstance(worker.outcome, Finished):
        (tally.by_others if worker.outcome.by_other else tally.done).append(worker.spec)
        display.end(worker.spec)
        return
    failed = worker.outcome or Failed(_death(worker))
    tally.failed.append(Failure(worker.spec, failed.error))
    display.end(worker.spec, error=failed.error)
    with suppress(Exception):  # on a full disk the failure is still named at the end
        store.write_failure(worker.spec, error=failed.error, traceback=failed.traceback)


def _death(worker: _Worker) -> str:
    """Say how a worker died that could not say so itself."""
    status = worker.process.exitcode
    if status is None or status >= 0:
        return f"its process ended without a result (exit status {status})"
    name = signal.Signals(-status).name
    hint = ", likely for want of memory: try fewer --jobs" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def _start_context() -> BaseContext:
    """A context whose workers start from a clean process that has the imports done already.

    Ctrl-C must reach the runner alone: the server is started with SIGINT blocked, which its
    workers inherit. (The resource tracker goes first because it unblocks the signal.)
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
