"""What the runner asks of a place where points run: processes, containers or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import Store
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


class Place(Protocol):
    """Where a run takes place."""

    def open(self, undertaking: Undertaking, display: Display) -> Pool:
        """Make ready for these points; raises UserError, with nothing started, where it cannot."""
