"""Run points in containers: the runner's place for `--runner docker`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from bench.docker.container import ARTIFACTS, Confinement, input_mounts
from bench.docker.daemon import connect
from bench.docker.gpus import Gpu, GpuLedger, find_gpus, gpus_needed
from bench.docker.images import Image, Images, image_system
from bench.docker.owner import remove_ours, sweep
from bench.docker.session import Session
from bench.docker.wire import Order, Ready
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import usable_cores
from bench.sweep import place
from bench.sweep.place import Job
from bench.sweep.pool import Ended, Undertaking, drive, undertaking
from bench.sweep.worker import Advanced, Failed, Finished
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

_POLL_S = 0.25


@dataclass(frozen=True)
class Containers:
    """This machine's Docker: each point in its own system's image, built first where need be.

    Simulated points share containers, `jobs` at a time (default: one for each usable core). Points
    measured on the CPU run alone; those on GPUs each get their GPUs to themselves, side by side.
    """

    jobs: int | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    connect: Callable[[], DockerClient] = connect
    find_gpus: Callable[[], list[Gpu]] = find_gpus

    def bring(self, job: Job, display: Display) -> Generator[place.Ended]:
        """See `bench.sweep.place.Place`."""
        yield from drive(self.open(undertaking(job), display), job, display)

    def open(self, undertaking: Undertaking, display: Display) -> ContainerPool:
        """Clear away dead launchers' containers, build what is stale and return a pool."""
        specs = undertaking.specs
        client = self.connect()
        sweep(client, display.note)
        measures = any(spec.backend == "cuda" for spec in specs)
        gpus = GpuLedger(self.find_gpus() if measures else ())
        for spec in specs:
            gpus.check(spec)
        images = Images(client, build_args=self.build_args)
        device = "cuda" if measures else "cpu"
        found = {
            system: images.ensure(images.recipe(system, device), display.note)
            for system in dict.fromkeys(image_system(spec.system) for spec in specs)
        }
        docker = client.version().get("Version")
        return ContainerPool(client, undertaking, Resources(found, gpus, self._limit(), docker))

    def _limit(self) -> int:
        return max(1, self.jobs or usable_cores())


@dataclass(frozen=True)
class Resources:
    """What a pool may use: an image for each system, GPUs, containers at a time."""

    images: Mapping[str, Image]
    gpus: GpuLedger
    limit: int
    docker: str | None


class ContainerPool:
    """Starts containers, tells them points and listens to them; see `bench.sweep.pool.Pool`."""

    def __init__(
        self, client: DockerClient, undertaking: Undertaking, resources: Resources
    ) -> None:
        self._client = client
        self._whole = undertaking
        self._resources = resources
        self._inputs = input_mounts(undertaking.specs)
        self._running: dict[Session, PointSpec] = {}
        self._idle: list[Session] = []
        self._pending: dict[Session, Order] = {}
        self._outcomes: dict[Session, Finished | Failed] = {}

    @property
    def busy(self) -> bool:
        """See `Pool.busy`."""
        return bool(self._running)

    def has_room(self, spec: PointSpec) -> bool:
        """See `Pool.has_room`."""
        if spec.backend == "cuda":
            return self._resources.gpus.has(gpus_needed(spec))
        return len(self._running) < (1 if spec.backend == "cpu" else self._resources.limit)

    def start(self, spec: PointSpec) -> None:
        """See `Pool.start`."""
        session = self._session(spec)
        self._running[session] = spec
        order = Order(spec, ARTIFACTS, self._provenance(session), self._whole.force)
        if session.ready:
            session.send(order)
        else:
            self._pending[session] = order

    def _session(self, spec: PointSpec) -> Session:
        """A container for the point: an idle one of its image, or a new one."""
        image = self._resources.images[image_system(spec.system)]
        for session in self._idle:
            if session.image == image:
                self._idle.remove(session)
                return session
        if self._idle and len(self._running) + len(self._idle) >= self._resources.limit:
            self._idle.pop(0).stop()  # of another image: make room
        results = self._whole.store.root.absolute()
        (results / "results").mkdir(parents=True, exist_ok=True)  # as us, not as the daemon
        gpus = self._resources.gpus.take(gpus_needed(spec))
        try:
            return Session(
                self._client, image, Confinement(results, inputs=self._inputs, gpus=gpus)
            )
        except BaseException:
            self._resources.gpus.give_back(gpus)
            raise

    def _provenance(self, session: Session) -> dict[str, Any]:
        """What of a point's provenance a container cannot know."""
        shared = self._whole.shared
        return {
            "git_commit": shared.get("git_commit"),
            "git_dirty": shared.get("git_dirty"),
            "container": session.confinement.record(session.image, self._resources.docker),
        }

    def listen(self, display: Display) -> list[Ended]:
        """See `Pool.listen`."""
        ended = []
        for session in self._wait():
            for message in session.receive():
                self._hear(session, message, display)
            if session in self._running and (session in self._outcomes or session.closed):
                ended.append(self._settle(session))
            elif session.closed and session in self._idle:
                self._idle.remove(session)
                session.stop()
        return ended

    def _wait(self) -> list[Session]:
        """Sessions that have something to say, waited for a moment."""
        by_descriptor = {session.fileno(): session for session in [*self._running, *self._idle]}
        ready = connection.wait(list(by_descriptor), timeout=_POLL_S)
        return [by_descriptor[found] for found in ready if isinstance(found, int)]

    def _hear(self, session: Session, message: object, display: Display) -> None:
        if isinstance(message, Advanced) and session in self._running:
            display.advance(self._running[session], message.fraction)
        elif isinstance(message, Finished | Failed):
            self._outcomes[session] = message
        elif isinstance(message, Ready):
            self._greet(session, message)

    def _greet(self, session: Session, hello: Ready) -> None:
        """Give a new container its first point, if it runs the sources that it should."""
        order = self._pending.pop(session)
        session.ready = hello.source == self._whole.store.source
        if session.ready:
            session.send(order)
        else:
            self._outcomes[session] = Failed(
                f"{session.image.name} holds other sources than this checkout: build it again "
                "with `make images`",
                fatal=True,
            )

    def _settle(self, session: Session) -> Ended:
        """Book the point of a container, and keep the container for another or end it."""
        spec = self._running.pop(session)
        self._pending.pop(session, None)
        outcome = self._outcomes.pop(session, None)
        death = "" if outcome else session.death
        if session.closed or not session.ready or spec.backend != "sim":
            session.stop()
            self._resources.gpus.give_back(session.confinement.gpus)
        else:
            self._idle.append(session)
        return Ended(spec, outcome, death)

    def stop(self) -> None:
        """See `Pool.stop`."""
        for session in [*self._running, *self._idle]:
            session.stop()
        self._running.clear()
        self._idle.clear()
        remove_ours(self._client)
        try:
            self._whole.store.prepare()  # clears away what they had not finished
        except UserError:
            return  # the disk is full; the next start clears it
