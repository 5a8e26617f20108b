"""The contract of a place where points run: processes, containers or a cluster."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.files import NoSpaceError
from bench.point.platform import Progress
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import provenance_of
from bench.results.store import State, Store
from engines.core.errors import LostWorkerError, UserError


class RunPoint(Protocol):
    """A function that serves a point; workers import it by its name."""

    def __call__(self, spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
        """Serve the point to the end; like `bench.point.serve.run_point`."""
        ...


@dataclass(frozen=True)
class Job:
    """Points to run into the store, the heaviest first.

    `shared` is the provenance that they have in common. Complete points are run again if they
    were started before `redo_before`.
    """

    store: Store
    specs: tuple[PointSpec, ...]
    shared: Mapping[str, Any]
    redo_before: datetime | None = None

    def is_done(self, spec: PointSpec) -> bool:
        """Whether the store has the point already, because another worker was faster."""
        if self.store.state(spec) is not State.COMPLETE:
            return False
        if self.redo_before is None:
            return True
        started = self.store.load_record(spec)["provenance"]["started"]
        return datetime.fromisoformat(started) >= self.redo_before

    def keep(
        self,
        spec: PointSpec,
        outcome: Outcome,
        started: datetime,
        ended: datetime,
        **machine: Any,
    ) -> None:
        """Store an outcome; `machine` is the provenance in which its machine differs from ours."""
        provenance = provenance_of(
            spec,
            shared={**self.shared, **machine},
            inputs=outcome.inputs,
            started=started,
            ended=ended,
        )
        self.store.write(spec, outcome, provenance=provenance)


@dataclass(frozen=True)
class Ended:
    """A point that is in the store now, or failed with the one-line `error`.

    `by_other`: another worker stored it. `retry`: the point may succeed when retried. `fatal`: no
    other point can succeed either.
    """

    spec: PointSpec
    error: str = ""
    traceback: str = ""
    by_other: bool = False
    retry: bool = False
    fatal: bool = False


class Place(Protocol):
    """Where points run."""

    def bring(self, job: Job, display: Display) -> Generator[Ended]:
        """Run the points into the store; yields each as it ends and reports progress to `display`.

        When the generator is closed, or Ctrl-C is raised in it, it ends its workers and leaves
        nothing half-written. A point that it does not yield was not run. Each point is run under
        its lock in the store (see `execute`), so that other workers may share the store.
        Raises UserError, with nothing started, if no point can run.
        """


def execute(
    job: Job, spec: PointSpec, run: RunPoint, *, on_progress: Progress, wait: bool = True
) -> Ended | None:
    """Run a point and store it, under its lock; never raises.

    Returns None if another worker holds the lock, unless told to `wait` for it.
    """
    try:
        with job.store.lock(spec, wait=wait) as held:
            if not held:
                return None
            if job.is_done(spec):
                return Ended(spec, by_other=True)
            started = datetime.now(UTC)
            outcome = run(spec, on_progress=on_progress)
            job.keep(spec, outcome, started, datetime.now(UTC))
    except Exception as error:
        return failure(spec, error)
    return Ended(spec)


def failure(spec: PointSpec, error: Exception) -> Ended:
    """Return how an exception ends its point; must be called while it is being handled."""
    if isinstance(error, UserError):
        return Ended(spec, one_line(str(error)), fatal=isinstance(error, NoSpaceError))
    if isinstance(error, LostWorkerError):
        return Ended(spec, one_line(str(error)), traceback.format_exc(), retry=True)
    return Ended(spec, one_line(f"{type(error).__name__}: {error}"), traceback.format_exc())


def one_line(text: str) -> str:
    """Fold a message into one line."""
    return " ".join(text.split())
