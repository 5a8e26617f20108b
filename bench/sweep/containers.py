"""Run points in containers of this machine's Docker: `bench points` in each system's image.

Results are written into the mounted store; the commands' standard output tells the progress.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from bench.docker.container import (
    Confinement,
    input_mounts,
    remove_ended,
    remove_ours,
    run_command,
)
from bench.docker.daemon import connect
from bench.docker.gpus import Gpu, find_gpus
from bench.docker.images import Image, Recipe, ensure_image, image_system
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import name_of
from bench.sweep.local import without_ctrl_c
from bench.sweep.place import Ended, Job
from engines.core.errors import UserError

_PING_EVERY_S = 2.0
_STOP_S = 20.0
# Settings that may name a file or folder.
_INPUTS = ("trace", "lengths", "device_profile", "host", "model")
_ENDED_BY_ITSELF = (0, 1)  # exit statuses of `bench points` that ran to its end
_KILLED = 137


@dataclass(frozen=True)
class Containers:
    """Each point runs in its system's image, which is built first if it is missing or stale.

    A container runs all simulated points of an image, `jobs` at a time, or those measured on the
    CPU one by one. A point on GPUs gets its own container and GPUs, beside other such points.
    """

    jobs: int | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)

    def bring(self, job: Job, display: Display) -> Generator[Ended]:
        """See `bench.sweep.place.Place`."""
        gpus = find_gpus() if any(map(_gpus_of, job.specs)) else []
        free = [gpu for gpu in gpus if gpu.idle]
        _check_gpus(job.specs, free=len(free), busy=len(gpus) - len(free))
        with closing(connect()) as client:
            remove_ended(client)

            @cache
            def image_of(system: str, device: str) -> Image:
                return ensure_image(client, Recipe(system, device, self.build_args), display.note)

            batches = _batches(job.specs, image_of)
            run = _Run(job, display, self.jobs, free)
            try:
                yield from run.serve(batches, ping=client.ping)
            finally:
                with without_ctrl_c():
                    for thread in run.threads.values():
                        remove_ours(client)  # again for each: one may just be starting
                        thread.join(_STOP_S)
                    with suppress(UserError):
                        job.store.prepare()  # removes what they had not finished


@dataclass(eq=False)
class _Batch:
    """Points for one container; `left` have not ended yet, `last_line` is its last on stderr."""

    image: Image
    left: dict[str, PointSpec]
    num_gpus: int = 0
    gpus: tuple[Gpu, ...] = ()
    last_line: str = ""


@dataclass
class _Run:
    """Containers side by side; a thread for each puts its messages into one queue."""

    job: Job
    display: Display
    jobs: int | None
    free: list[Gpu]
    news: queue.SimpleQueue[tuple[_Batch, Any]] = field(default_factory=queue.SimpleQueue)
    threads: dict[_Batch, threading.Thread] = field(default_factory=dict)

    def serve(self, waiting: list[_Batch], ping: Callable[[], object]) -> Generator[Ended]:
        """Run all batches; yields each point as it ends. Stops early if the disk is full."""
        while waiting or self.threads:
            while waiting and self._has_room(waiting[0]):
                self._start(waiting.pop(0))
            try:
                batch, news = self.news.get(timeout=_PING_EVERY_S)
            except queue.Empty:
                ping()  # raises if the daemon no longer answers
                continue
            if isinstance(news, Mapping):
                yield from self._take(batch, news)
                continue
            del self.threads[batch]
            self.free += batch.gpus
            if isinstance(news, Exception):
                raise news
            yield from self._rest(batch, news)
            if batch.left and news in _ENDED_BY_ITSELF:
                return  # it stopped early because nothing more could be written

    def _has_room(self, batch: _Batch) -> bool:
        return 0 < batch.num_gpus <= len(self.free) or not self.threads

    def _start(self, batch: _Batch) -> None:
        batch.gpus = tuple(self.free[: batch.num_gpus])
        self.free = self.free[batch.num_gpus :]
        self.threads[batch] = threading.Thread(target=self._follow, args=(batch,), daemon=True)
        self.threads[batch].start()

    def _follow(self, batch: _Batch) -> None:
        """Run the container to its end. The last message is its exit status, or an exception."""
        specs = list(batch.left.values())
        words = ["bench", "points", "-", "--artifacts", "artifacts", "--json", "--quiet"]
        words += ["--jobs", str(self.jobs)] if self.jobs else []
        if self.job.redo_before is not None:
            words += ["--force", "--since", self.job.redo_before.isoformat()]
        paths = [value for spec in specs for name in _INPUTS if (value := getattr(spec, name))]
        confinement = Confinement(self.job.store.root, input_mounts(paths), batch.gpus)
        try:
            with closing(connect()) as client:
                status = run_command(
                    client,
                    batch.image,
                    confinement,
                    words,
                    out=_Lines(lambda line: self.news.put((batch, json.loads(line)))),
                    errors=_Lines(lambda line: setattr(batch, "last_line", line)),
                    given="".join(json.dumps(spec.to_dict()) + "\n" for spec in specs).encode(),
                )
            self.news.put((batch, status))
        except Exception as error:
            self.news.put((batch, error))

    def _take(self, batch: _Batch, event: Mapping[str, Any]) -> Generator[Ended]:
        """Show a point's progress, or yield how it ended."""
        spec, error = batch.left[event["point"]], event.get("error", "")
        if event["event"] == "begin":
            self.display.begin(spec)
        elif event["event"] == "advance":
            self.display.advance(spec, event["share"])
        else:
            del batch.left[event["point"]]
            failed = self.job.store.load_failure(spec) if error else None
            yield Ended(spec, error, "\n".join(failed["traceback"]) if failed else "")

    def _rest(self, batch: _Batch, status: int) -> Generator[Ended]:
        """Yield the points of an ended container that it did not report."""
        error = f"its container ended without a result (exit status {status})"
        if status == _KILLED:
            error = "its container was killed, probably out of memory: try fewer --jobs"
        for name, spec in list(batch.left.items()):
            if self.job.is_done(spec):
                del batch.left[name]
                yield Ended(spec, by_other=True)
            elif status not in _ENDED_BY_ITSELF:
                reason = f"{error}: {batch.last_line}" if batch.last_line else error
                yield Ended(spec, reason, retry=True)


class _Lines:
    """Takes output in pieces and calls a function with each whole line."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""

    def __call__(self, content: bytes) -> None:
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in filter(None, map(bytes.strip, lines)):
            self._tell(line.decode(errors="replace"))


def _batches(specs: Iterable[PointSpec], image_of: Callable[[str, str], Image]) -> list[_Batch]:
    """One batch for each point on GPUs, and one per image for all others."""
    found: dict[object, _Batch] = {}
    for spec in specs:
        num_gpus = _gpus_of(spec)
        image = image_of(image_system(spec.system), "cuda" if num_gpus else "cpu")
        batch = found.setdefault(spec if num_gpus else image, _Batch(image, {}, num_gpus))
        batch.left[name_of(spec)] = spec
    return list(found.values())


def _gpus_of(spec: PointSpec) -> int:
    return (spec.tensor_parallel or 1) if spec.backend == "cuda" else 0


def _check_gpus(specs: Sequence[PointSpec], *, free: int, busy: int) -> None:
    """Raise UserError if a point could never get its GPUs."""
    for spec in specs:
        if (needed := _gpus_of(spec)) > free:
            others = f" ({busy} more in use by others)" if busy else ""
            raise UserError(
                f"{spec.slug} needs {needed} GPUs and {free} are free{others}: lower "
                "--tensor-parallel, free some, or use --backend sim"
            )
