"""Run each point in its own process on this machine, so that a crash costs only one point."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from bench.machine import usable_cores
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import Store, name_of
from bench.sweep.place import Ended, Job, RunPoint, execute
from engines.core.errors import UserError
from engines.kernels.driver import require_cuda

_TELL_EVERY_S = 0.1  # more often, and the messages keep the runner busier than short points are
_GRACE_S = 2.0  # for a worker to end by itself before it is killed

# Imported once, not by every worker: a tenth of a second each.
_PRELOADED = ("__main__", "bench.sweep.local", "numpy.ma", "numpy.random", "pyarrow.parquet")


@dataclass(frozen=True)
class LocalProcesses:
    """This machine: `jobs` points at a time (default: one for each usable core)."""

    jobs: int | None = None
    run: RunPoint = run_point

    def bring(self, job: Job, display: Display) -> Generator[Ended]:
        """See `Place.bring`; measured points run one at a time, so as not to disturb each other."""
        limit = self.jobs or usable_cores()
        if any(spec.backend == "cuda" for spec in job.specs):
            require_cuda()  # once, not from every worker
        if any(spec.measured for spec in job.specs):
            limit = 1
            if self.jobs is not None and self.jobs > 1:
                display.note("measured points run one at a time: --jobs is for the simulation")
        pool = _Pool(job, self.run)
        try:
            while pool.fill(limit, display):
                yield from pool.listen(display)
        finally:
            with without_ctrl_c():
                pool.stop()


@dataclass
class _Worker:
    """A running process: it sends its progress, then how it ended (None: locked elsewhere)."""

    spec: PointSpec
    process: BaseProcess


class _Pool:
    """Worker processes, by our end of their pipes, and the points that are not started yet.

    Points locked by another command are put aside, and waited for when all others have started.
    """

    def __init__(self, job: Job, run: RunPoint) -> None:
        store = Store(job.store.root.absolute(), source=job.store.source)
        self._job = replace(job, store=store, specs=())  # what a worker needs of it
        self._run = run
        self._waiting = deque(job.specs)
        self._held: deque[PointSpec] = deque()
        self._workers: dict[Connection, _Worker] = {}
        self._context = _start_context()

    def fill(self, limit: int, display: Display) -> bool:
        """Start workers up to the limit; returns whether there is anything to listen to."""
        while len(self._workers) < limit and (self._waiting or self._held):
            wait = not self._waiting
            spec = (self._waiting or self._held).popleft()
            ours, theirs = self._context.Pipe()
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_work, args=(self._job, spec, self._run, wait, theirs), name=name_of(spec)
            )
            display.begin(spec)
            process.start()
            theirs.close()  # so that the worker's death closes the pipe
            self._workers[ours] = _Worker(spec, process)
        return bool(self._workers)

    def listen(self, display: Display) -> Iterator[Ended]:
        """Wait for messages of the workers; yields the points that have ended."""
        for ready in connection.wait(list(self._workers)):
            assert isinstance(ready, Connection)
            worker = self._workers[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):
                self._retire(ready)
                yield _death(worker)
                continue
            if isinstance(message, float):
                display.advance(worker.spec, message)
                continue
            self._retire(ready)
            if message is None:
                self._held.append(worker.spec)
            else:
                yield message

    def _retire(self, channel: Connection, patience_s: float = _GRACE_S) -> None:
        worker = self._workers.pop(channel)
        worker.process.join(patience_s)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        channel.close()

    def stop(self) -> None:
        """End all workers, and remove what they had not finished."""
        if not self._workers:
            return
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for channel in list(self._workers):
            self._retire(channel, max(0.0, deadline - time.monotonic()))
        with suppress(UserError):
            self._job.store.prepare()


def _work(job: Job, spec: PointSpec, run: RunPoint, wait: bool, channel: Connection) -> None:
    """Serve a point in a worker process, which ends when the runner does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what Ctrl-C means
    threading.Thread(target=_end_with_runner, args=(channel,), daemon=True).start()

    told_at = 0.0

    def tell(share: float) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            channel.send(float(share))

    ended = execute(job, spec, run, on_progress=tell, wait=wait)
    with suppress(OSError):  # the runner may be gone
        channel.send(ended)


def _end_with_runner(channel: Connection) -> None:
    """Exit at once when the other end of the pipe closes: the runner has died."""
    try:
        channel.recv()  # the runner sends nothing
    except (EOFError, OSError):
        os._exit(1)


def _death(worker: _Worker) -> Ended:
    """Return how a worker died without sending a result."""
    status = worker.process.exitcode
    if status is None or status >= 0:
        error = f"its process ended without a result (exit status {status})"
    else:
        name = signal.Signals(-status).name
        hint = ", probably out of memory: try fewer --jobs" if name == "SIGKILL" else ""
        error = f"its process was killed by {name}{hint}"
    return Ended(worker.spec, error, retry=True)


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C in the block, which ends workers."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _start_context() -> BaseContext:
    """A context whose workers are forked from a clean process with all imports done.

    Ctrl-C must reach only the runner, so the fork server is started with SIGINT blocked, which
    workers inherit. (The resource tracker is started first because it unblocks the signal.)
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
