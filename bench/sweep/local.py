"""Run points in processes of this machine, each of its own, so that a crash costs one point."""

from __future__ import annotations

import multiprocessing
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import usable_cores
from bench.results.store import MEASURED, name_of
from bench.sweep.pool import Ended, Undertaking
from bench.sweep.worker import Advanced, Failed, Finished, RunPoint, Task, work
from engines.core.errors import UserError

_POLL_S = 0.25
_GRACE_S = 2.0  # for a worker to end by itself before it is killed

# What every worker would import again otherwise, at a tenth of a second each.
_PRELOADED = ("__main__", "bench.sweep.worker", "numpy.ma", "numpy.random", "pyarrow.parquet")


@dataclass(frozen=True)
class LocalProcesses:
    """This machine: `jobs` points at a time (default: one for each usable core)."""

    jobs: int | None = None
    run: RunPoint = run_point

    def open(self, undertaking: Undertaking, display: Display) -> LocalPool:
        """Return a pool; measured points run one at a time, since they would disturb each other."""
        limit = max(1, self.jobs or usable_cores())
        if any(spec.backend in MEASURED for spec in undertaking.specs):
            limit = 1
            if self.jobs is not None and self.jobs > 1:
                display.note("measured points run one at a time: --jobs is for the simulation")
        return LocalPool(undertaking, run=self.run, limit=limit)


@dataclass
class _Worker:
    """A running process and the pool's end of its pipe."""

    spec: PointSpec
    process: BaseProcess
    channel: Connection
    outcome: Finished | Failed | None = None


class LocalPool:
    """Starts worker processes, listens to them and ends them."""

    def __init__(self, undertaking: Undertaking, *, run: RunPoint, limit: int) -> None:
        self._undertaking = undertaking
        self._run = run
        self._limit = limit
        self._workers: dict[Connection, _Worker] = {}
        self._context = _start_context()

    @property
    def busy(self) -> bool:
        """See `Pool.busy`."""
        return bool(self._workers)

    def has_room(self, spec: PointSpec) -> bool:
        """See `Pool.has_room`."""
        del spec
        return len(self._workers) < self._limit

    def start(self, spec: PointSpec) -> None:
        """See `Pool.start`."""
        ours, theirs = self._context.Pipe()
        whole = self._undertaking
        task = Task(spec, whole.store.root.absolute(), self._run, whole.shared, whole.force)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=work, args=(task, theirs), name=name_of(spec)
        )
        process.start()
        theirs.close()  # so that the worker's death closes the pipe
        self._workers[ours] = _Worker(spec, process, ours)

    def listen(self, display: Display) -> list[Ended]:
        """See `Pool.listen`."""
        ended = []
        for ready in connection.wait(list(self._workers), timeout=_POLL_S):
            assert isinstance(ready, Connection)
            worker = self._workers[ready]
            try:
                message = ready.recv()
            except (EOFError, OSError):
                self._retire(worker)
                death = "" if worker.outcome else _death(worker.process)
                ended.append(Ended(worker.spec, worker.outcome, death))
                continue
            if isinstance(message, Advanced):
                display.advance(worker.spec, message.fraction)
            else:
                worker.outcome = message
        return ended

    def _retire(self, worker: _Worker) -> None:
        worker.process.join(_GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.channel.close()
        del self._workers[worker.channel]

    def stop(self) -> None:
        """See `Pool.stop`."""
        for worker in self._workers.values():
            worker.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for worker in list(self._workers.values()):
            worker.process.join(max(0.0, deadline - time.monotonic()))
            self._retire(worker)
        with suppress(UserError):
            self._undertaking.store.prepare()  # clears away what they had not finished


def _death(process: BaseProcess) -> str:
    """Say how a worker died that could not say so itself."""
    status = process.exitcode
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
