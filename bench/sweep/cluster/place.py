"""A Ray cluster as a place for points."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterable
from pathlib import Path

from bench.point.serve import run_point
from bench.progress import Display
from bench.sweep import place
from bench.sweep.cluster.inputs import require_kernels
from bench.sweep.cluster.link import Link
from bench.sweep.cluster.nodes import check_room
from bench.sweep.cluster.pool import ClusterPool
from bench.sweep.place import Job
from bench.sweep.pool import Undertaking, drive, undertaking
from bench.sweep.worker import RunPoint
from engines.core.errors import UserError
from engines.execution.ray_address import parse_address


class RayCluster:
    """The cluster at an address (HOST:PORT, "auto"), or one of this machine alone ("local").

    It is connected when points are to run, and stays so until `close`, over as many runs as there
    are. `jobs` limits the points at a time. `further` are files of modules that `run` needs.
    """

    def __init__(
        self,
        address: str,
        *,
        jobs: int | None = None,
        run: RunPoint = run_point,
        further: Iterable[Path] = (),
    ) -> None:
        """Connect to nothing yet; raises UserError for what is no address."""
        parse_address(address)
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "--ray needs Ray, which is not installed: pip install ray, in the version that "
                "the cluster runs, or make install RAY=..."
            )
        self._address = address
        self._jobs = jobs
        self._run = run
        self._further = tuple(further)
        self._link: Link | None = None

    def bring(self, job: Job, display: Display) -> Generator[place.Ended]:
        """See `bench.sweep.place.Place`."""
        yield from drive(self.open(undertaking(job), display), job, display)

    def open(self, undertaking: Undertaking, display: Display) -> ClusterPool:
        """Connect and make a pool.

        Raises UserError within seconds where nobody answers or versions differ, and for points
        that the cluster is too small for.
        """
        require_kernels(undertaking.specs)
        if self._link is None or self._link.closed:
            display.note(f"connecting to Ray ({self._address})")
            self._link = Link(self._address, further=self._further)
            display.note(f"nodes: {', '.join(map(str, self._link.nodes))}")
        self._link.receive(0.0)  # nodes may have come or gone since
        check_room(self._link.nodes, undertaking.specs)
        return ClusterPool(undertaking, self._link, self._run, self._jobs)

    def close(self) -> None:
        """End the connection, and with it whatever still runs."""
        if self._link is not None:
            self._link.close()
            self._link = None
