"""The process that runs one point: it serves it, writes it, and tells the runner over a pipe."""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from bench.files import NoSpaceError
from bench.point.serve import Outcome, Progress
from bench.point.spec import PointSpec
from bench.results.provenance import provenance_of
from bench.results.store import State, Store
from engines.core.errors import LostWorkerError, UserError

# New objects between two searches for garbage; Python's 700 cost a simulation a tenth of its time.
_COLLECT_EVERY = 50_000


class RunPoint(Protocol):
    """A function that serves a point; workers import it by its name."""

    def __call__(self, spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
        """Serve the point to the end; like `bench.point.serve.run_point`."""
        ...


@dataclass(frozen=True)
class Task:
    """All that a worker needs to know. `shared` is the provenance that all points share."""

    spec: PointSpec
    root: Path
    run: RunPoint
    shared: Mapping[str, Any]
    force: bool


@dataclass(frozen=True)
class Advanced:
    """The share of the point that is done, 0 to 1."""

    fraction: float


@dataclass(frozen=True)
class Finished:
    """The point lies in the store; `by_other` if another run put it there meanwhile."""

    by_other: bool = False


@dataclass(frozen=True)
class Failed:
    """The point failed, in one line.

    `fatal` if no other can succeed; `retry` if the same point may succeed another time.
    """

    error: str
    traceback: str = ""
    fatal: bool = False
    retry: bool = False


Message = Advanced | Finished | Failed


def work(task: Task, channel: Connection) -> None:
    """Serve `task` and report to the runner; never raises, and ends when the runner does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what Ctrl-C means
    threading.Thread(target=_end_with_runner, args=(channel,), daemon=True).start()
    message = attempt(task, channel.send)
    with suppress(OSError):  # the runner may be gone
        channel.send(message)


def attempt(task: Task, tell: Callable[[Message], None]) -> Finished | Failed:
    """Serve `task`, telling how far it is, and return how it ended; never raises."""
    gc.set_threshold(_COLLECT_EVERY)
    try:
        return _serve(task, tell)
    except Exception as error:
        return failure_of(error)


def failure_of(error: Exception) -> Failed:
    """Say what an exception means for the point that raised it; called where it is handled."""
    if isinstance(error, UserError):
        return Failed(one_line(str(error)), fatal=isinstance(error, NoSpaceError))
    if isinstance(error, LostWorkerError):
        return Failed(one_line(str(error)), traceback.format_exc(), retry=True)
    return Failed(one_line(f"{type(error).__name__}: {error}"), traceback.format_exc())


def _serve(task: Task, tell: Callable[[Message], None]) -> Finished:
    """Run and write the point while no other run may touch it."""
    store = Store(task.root, source=task.shared["source_sha256"])
    with store.lock(task.spec):
        if not task.force and store.state(task.spec) is State.COMPLETE:
            return Finished(by_other=True)
        started = datetime.now(UTC)
        outcome = task.run(task.spec, on_progress=lambda share: tell(Advanced(share)))
        provenance = provenance_of(
            task.spec,
            shared=task.shared,
            inputs=outcome.inputs,
            started=started,
            ended=datetime.now(UTC),
        )
        store.write(task.spec, outcome, provenance=provenance)
    return Finished()


def _end_with_runner(channel: Connection) -> None:
    """Leave at once when the other end of the pipe closes: the runner is gone, however it went."""
    try:
        channel.recv()  # the runner sends nothing
    except (EOFError, OSError):
        os._exit(1)


def one_line(text: str) -> str:
    """Fold a message into one line."""
    return " ".join(text.split())
