"""Run points as tasks of a Ray cluster, whose nodes need not share files with this machine."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import usable_cores
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import name_of
from bench.sweep.local import without_ctrl_c
from bench.sweep.place import Ended, Job, RunPoint, failure, one_line
from bench.sweep.ray_task import Order, Served, read_inputs, require_kernels, serve, stage_sources
from engines.core.errors import UserError
from engines.execution.ray_session import SETTINGS, RaySession, host_and_port, ray_session

_POLL_S = 0.25
_LOOK_S = 1.0  # between looks at the nodes and the head


class RayCluster:
    """The cluster at an address (HOST:PORT, "auto"), or one of this machine alone ("local").

    It connects when the first points run, and stays connected until `close`. `jobs` limits the
    points at a time.
    """

    def __init__(self, address: str, *, jobs: int | None = None, run: RunPoint = run_point) -> None:
        """Do not connect yet; raises UserError for an invalid address."""
        host_and_port(address)
        self._address = address
        self._jobs = jobs
        self._run = run
        self._session: RaySession | None = None
        self._stack = ExitStack()

    def bring(self, job: Job, display: Display) -> Generator[Ended]:
        """See `Place.bring`; raises UserError if the cluster is too small for a point."""
        require_kernels(job.specs)
        session = self._session = self._session or self._connect(display)
        require_room(alive_nodes(), job.specs)
        tasks = _Tasks(job, self._run, session, self._address)
        try:
            yield from tasks.run_all(self._jobs, display)
        finally:
            with without_ctrl_c():
                tasks.cancel()

    def _connect(self, display: Display) -> RaySession:
        display.note(f"connecting to Ray ({self._address})")
        with tempfile.TemporaryDirectory(prefix="bench-sources-") as folder:
            stage_sources(Path(folder))
            env = {"working_dir": folder, "env_vars": SETTINGS}
            session = self._stack.enter_context(
                ray_session(self._address, num_cpus=usable_cores(), runtime_env=env)
            )  # uploads the sources
        display.note(f"nodes: {_listed(alive_nodes())}")
        return session

    def close(self) -> None:
        """Close the connection, which ends all tasks that still run."""
        self._session = None
        self._stack.close()


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its address, cores and GPUs."""

    address: str
    cpus: int
    gpus: int = 0

    def fits(self, resources: Mapping[str, int]) -> bool:
        """Whether a task with these resources can run here, once the node is idle."""
        return self.cpus >= resources["num_cpus"] and self.gpus >= resources.get("num_gpus", 0)

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.address} ({self.cpus} CPUs{gpus})"


def _listed(nodes: Sequence[Node]) -> str:
    return ", ".join(map(str, nodes)) or "none"


def alive_nodes() -> list[Node]:
    """The nodes that are alive now, sorted by address."""
    import ray

    return sorted(
        (
            Node(
                node["NodeManagerAddress"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        ),
        key=lambda node: node.address,
    )


def resources_of(spec: PointSpec, nodes: Sequence[Node]) -> dict[str, int] | None:
    """The resources of a point's task in Ray; None if no node has them.

    A simulation gets one core. A model on GPUs gets these and their share of a node's cores. A
    model on the CPU gets all cores of a node, so that points do not disturb each other. The ranks
    of a tensor-parallel model share its point's resources.
    """
    degree = spec.tensor_parallel or 1
    if spec.backend == "cuda":
        shares = [node.cpus // node.gpus for node in nodes if node.gpus >= degree]
        return {"num_gpus": degree, "num_cpus": max(1, min(shares)) * degree} if shares else None
    most = max((node.cpus for node in nodes), default=0)
    cpus = most if spec.backend == "cpu" else 1
    return {"num_cpus": cpus} if most >= max(1, cpus, degree * (spec.backend == "cpu")) else None


def require_room(nodes: Sequence[Node], specs: Iterable[PointSpec]) -> None:
    """Raise UserError, with the nodes there are, if a point could not run on the idle cluster."""
    for spec in specs:
        if resources_of(spec, nodes) is None:
            degree = spec.tensor_parallel or 1
            what = f"{degree} GPUs" if spec.backend == "cuda" else f"{degree} CPUs"
            raise UserError(
                f"{spec.model} with tensor parallelism {degree} on backend '{spec.backend}' needs "
                f"a node with {what}, but the cluster has {_listed(nodes)}: "
                "add nodes, or leave this model out"
            )


@dataclass(frozen=True)
class _Running:
    """A submitted point, its resources, and its lock in the store."""

    spec: PointSpec
    resources: Mapping[str, int]
    hold: ExitStack


class _Tasks:
    """Points as Ray tasks, each locked against other commands until it ends."""

    def __init__(self, job: Job, run: RunPoint, session: RaySession, address: str) -> None:
        self._job = job
        self._run = run
        self._session = session
        self._address = address
        self._waiting = deque(job.specs)
        self._running: dict[Any, _Running] = {}  # by the stream of the task's messages
        self._nodes: list[Node] = []
        self._next_look_s = 0.0

    def run_all(self, jobs: int | None, display: Display) -> Iterator[Ended]:
        """Submit tasks, as many at a time as there are cores, and yield the points as they end."""
        while self._waiting or self._running:
            self._look()
            free = (jobs or sum(node.cpus for node in self._nodes)) - len(self._running)
            for _ in range(min(len(self._waiting), free)):
                if (ended := self._start(self._waiting.popleft(), display)) is not None:
                    yield ended
            yield from self._listen(display)

    def _start(self, spec: PointSpec, display: Display) -> Ended | None:
        """Submit a point, or postpone it if another command holds it or no node can run it now."""
        resources = resources_of(spec, self._nodes)
        with ExitStack() as hold:
            held = hold.enter_context(self._job.store.lock(spec, wait=False))
            if held and self._job.is_done(spec):
                return Ended(spec, by_other=True)
            if not held or resources is None:
                self._waiting.append(spec)
                return None
            display.begin(spec)
            stream = self._submit(spec, resources)
            self._running[stream] = _Running(spec, resources, hold.pop_all())
        return None

    def _submit(self, spec: PointSpec, resources: Mapping[str, int]) -> Any:
        import ray

        options: dict[str, Any] = {
            **resources,
            "num_returns": "streaming",
            "max_retries": 0,  # the runner retries, as everywhere
            "max_calls": int(spec.measured),  # ending the process frees a GPU's memory
        }
        order = Order(spec, read_inputs(spec), self._run, self._job.store.source)
        return ray.remote(**options)(serve).remote(order)

    def _listen(self, display: Display) -> Iterator[Ended]:
        """Wait briefly for messages of tasks; yields the points that have ended."""
        import ray

        if not self._running:
            time.sleep(_POLL_S)
            return
        streams = list(self._running)
        ready: list[Any]
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=_POLL_S)
        for stream in ready:
            spec = self._running[stream].spec
            try:
                message = ray.get(next(stream))
            except Exception as error:
                self._require_head()
                message = Ended(spec, _loss(error), retry=True)
            if isinstance(message, float):
                display.advance(spec, message)
                continue
            ended = self._write(spec, message) if isinstance(message, Served) else message
            self._running.pop(stream).hold.close()
            yield ended

    def _write(self, spec: PointSpec, served: Served) -> Ended:
        """Store a result like a local process, but with the node's provenance."""
        try:
            self._job.keep(spec, served.outcome, served.started, served.ended, **served.machine)
        except Exception as error:
            return failure(spec, error)
        return Ended(spec)

    def _look(self) -> None:
        """Once a second, list the nodes; raises UserError if waiting is pointless."""
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + _LOOK_S
        self._require_head()
        self._nodes = alive_nodes()
        require_room(self._nodes, self._waiting)
        for one in self._running.values():
            if not any(node.fits(one.resources) for node in self._nodes):
                raise UserError(
                    f"no remaining node can run {name_of(one.spec)}: the cluster has "
                    f"{_listed(self._nodes)}. When there are more, run the same command; finished "
                    "points are kept"
                )

    def _require_head(self) -> None:
        if not self._session.is_alive():
            raise UserError(
                f"the connection to the Ray cluster at {self._address} is lost: when it is back, "
                "run the same command; finished points are kept"
            )

    def cancel(self) -> None:
        """Cancel the tasks that still run; if the cluster is gone, they have ended with it."""
        import ray

        alive = bool(self._running) and self._session.is_alive()
        for stream, running in self._running.items():
            with suppress(Exception):  # the task may have ended already
                if alive:
                    ray.cancel(stream, force=True)
            running.hold.close()
        self._running.clear()


def _loss(error: Exception) -> str:
    """Say in one line how a task was lost."""
    from ray import exceptions

    if isinstance(error, exceptions.NodeDiedError):
        return "its node was lost"
    if isinstance(error, exceptions.OutOfMemoryError):
        return "Ray killed its process because its node ran out of memory"
    if isinstance(error, exceptions.WorkerCrashedError | StopIteration):
        return "its process ended without a result"
    return f"its task was lost ({type(error).__name__}: {one_line(str(error))[-200:]})"
