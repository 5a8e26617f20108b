"""What the runner asks of a place where points run: processes, containers or a cluster."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import Store
from bench.sweep import place
from bench.sweep.place import Job
from bench.sweep.worker import Failed, Finished


@dataclass(frozen=True)
class Undertaking:
    """The points of one run and where they belong.

    `shared` is the provenance that all points share. With `force` complete points run again.
    """

    store: Store
    specs: tuple[PointSpec, ...]
    shared: Mapping[str, Any]
    force: bool


@dataclass(frozen=True)
class Ended:
    """A point's worker has ended. Without an outcome it died, which `death` tells in one line."""

    spec: PointSpec
    outcome: Finished | Failed | None
    death: str = ""


class Pool(Protocol):
    """Workers, each with one point at a time, whose results come to lie in the store."""

    @property
    def busy(self) -> bool:
        """Whether any point is running."""

    def has_room(self, spec: PointSpec) -> bool:
        """Whether the point could start now. A pool that runs nothing has room for any point."""

    def start(self, spec: PointSpec) -> None:
        """Start a worker for the point; raises UserError if no point can ever run here."""

    def listen(self, display: Display) -> Sequence[Ended]:
        """Wait a moment for news and show progress; returns the points that have ended."""

    def stop(self) -> None:
        """End all workers, gently at first; leaves nothing of them behind.

        Called when all points have ended, too.
        """


def drive(pool: Pool, job: Job, display: Display) -> Generator[place.Ended]:
    """Bring a job's points through a pool; see `bench.sweep.place.Place`."""
    waiting = list(job.specs)[::-1]
    try:
        while waiting or pool.busy:
            while waiting and pool.has_room(waiting[-1]):
                display.begin(waiting[-1])
                pool.start(waiting.pop())
            for ended in pool.listen(display):
                yield _told(ended)
    finally:
        pool.stop()


def _told(ended: Ended) -> place.Ended:
    outcome = ended.outcome or Failed(ended.death, retry=True)
    if isinstance(outcome, Finished):
        return place.Ended(ended.spec, by_other=outcome.by_other)
    return place.Ended(
        ended.spec,
        outcome.error,
        outcome.traceback,
        retry=outcome.retry,
        fatal=outcome.fatal,
    )


def undertaking(job: Job) -> Undertaking:
    """A job as pools take it."""
    return Undertaking(job.store, job.specs, job.shared, job.redo_before is not None)
