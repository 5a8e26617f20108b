"""A Docker daemon that is none: images are records, containers are threads behind socket pairs."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker

from bench.docker.wire import Message, Order, decode_order, encode

Program = Callable[["FakeContainer", Order], Iterable[Message]]


def frame(stream: int, content: bytes) -> bytes:
    """One piece of an attached container's output."""
    return struct.pack(">BxxxL", stream, len(content)) + content


class FakeContainer:
    """Follows orders as `daemon.program` says, until its standard input ends.

    One that was made for a command says and returns what `daemon.command` does.
    """

    words: Sequence[str] = ()

    def __init__(self, daemon: FakeDaemon, number: int, image: str, options: Mapping[str, Any]):
        self.id = f"c{number}"
        self.image = image
        self.options = dict(options)
        self.labels = dict(options.get("labels", {}))
        self.started = False
        self.orders: list[Order] = []
        self.ended = threading.Event()
        self.status = 0
        self.refusals: list[Exception] = []  # what the next removals fail with
        self._daemon = daemon

    def attach(self) -> socket.socket:
        ours, self.theirs = socket.socketpair()
        return ours

    def say(self, message: Message) -> None:
        self.print(encode(message))

    def print(self, content: bytes) -> None:
        self.theirs.sendall(frame(1, content))

    def complain(self, text: str) -> None:
        self.theirs.sendall(frame(2, text.encode()))

    def start(self) -> None:
        if self._daemon.start_error:
            self.theirs.close()
            raise docker.errors.APIError("no", explanation=self._daemon.start_error)
        self.started = True
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        if "bench.docker.leash" in self.words:
            with self.theirs:
                status = self._daemon.command(self)
            self.die(status)
            return
        with self.theirs, self.theirs.makefile("rb") as lines, suppress(OSError):
            for message in self._daemon.hello:
                self.say(message)
            for line in lines:
                order = decode_order(line)
                self.orders.append(order)
                for message in self._daemon.program(self, order):
                    self.say(message)
                if self.ended.is_set():
                    return
        self.die(0)

    def die(self, status: int) -> None:
        """End, as the program or the kernel decides."""
        self.status = status
        self.ended.set()
        self._daemon.remove(self)

    def remove(self, *, force: bool) -> None:
        assert force
        if self.refusals:
            raise self.refusals.pop(0)
        if not self._daemon.remove(self):
            raise docker.errors.NotFound("gone")


class FakeDaemon:
    """What the launcher uses of `docker.DockerClient`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.command: Callable[[FakeContainer], int] = lambda _: 0
        self.hello: list[Message] = []
        self.start_error = ""
        self.alive: list[FakeContainer] = []
        self.created: list[FakeContainer] = []
        self.stored: dict[str, SimpleNamespace] = {}
        self.build_lines: list[dict[str, str]] = [{"stream": "Step 1/1 : FROM scratch"}]
        self.builds: list[dict[str, Any]] = []
        self.removed_images: list[str] = []
        self._numbers = itertools.count(1)
        self._removing = threading.Lock()
        self.containers = SimpleNamespace(create=self._create, list=self._list)
        self.images = SimpleNamespace(get=self._image, remove=self.removed_images.append)
        self.api = SimpleNamespace(
            base_url="http+docker://x", api_version="1.41",
            attach_socket=self._attach, post=self._post, build=self._build,
        )  # fmt: skip

    def version(self) -> dict[str, str]:
        return {"Version": "0.0-fake"}

    def remove(self, container: FakeContainer) -> bool:
        """Whether the container was there; it may end by itself at this moment."""
        with self._removing:
            present = container in self.alive
            if present:
                self.alive.remove(container)
        container.ended.set()
        return present

    def _create(self, image: str, command: list[str], **options: Any) -> FakeContainer:
        container = FakeContainer(self, next(self._numbers), image, options)
        container.words = command
        self.alive.append(container)
        self.created.append(container)
        return container

    def _list(
        self, *, all: bool, filters: Mapping[str, str], ignore_removed: bool
    ) -> list[FakeContainer]:
        assert all
        assert ignore_removed, "the list would fail if a container goes meanwhile"
        name, equals, value = filters["label"].partition("=")
        with self._removing:
            found = [c for c in self.alive if name in c.labels]
        return [c for c in found if c.labels[name] == value] if equals else found

    def _find(self, container_id: str) -> FakeContainer:
        return next(c for c in self.created if c.id == container_id)

    def _attach(self, container_id: str, params: Mapping[str, int]) -> socket.socket:
        assert {"stdin", "stdout", "stderr", "stream"} == set(params)
        return self._find(container_id).attach()

    def _post(self, url: str, **_: Any) -> SimpleNamespace:
        container_id, what = url.split("/")[-2:]
        assert what == "wait"
        container = self._find(container_id)
        assert not container.started, "its exit might be over already"

        def status() -> dict[str, int]:
            container.ended.wait()
            return {"StatusCode": container.status}

        return SimpleNamespace(raise_for_status=lambda: None, json=status, close=lambda: None)

    def _image(self, name: str) -> SimpleNamespace:
        if name not in self.stored:
            raise docker.errors.ImageNotFound("none")
        return self.stored[name]

    def _build(self, **arguments: Any) -> Iterable[dict[str, str]]:
        self.builds.append(arguments)
        yield from self.build_lines
        if not any("error" in line for line in self.build_lines):
            self.put_image(arguments["tag"], source=arguments["buildargs"]["SOURCE_SHA256"])

    def put_image(self, name: str, *, source: str) -> None:
        self.stored[name] = SimpleNamespace(
            id=f"sha256:{next(self._numbers):064d}",
            labels={"sosp23.source": source},
            attrs={"Size": 1_000_000_000},
        )


def checkout(folder: Path) -> Path:
    """A folder that has all files that images are made from, with little in them."""
    for name in ("Dockerfile.astra", "Dockerfile.orca", "Dockerfile.ft", "LICENSE", "MANIFEST.in",
                 "README.md", "pyproject.toml", "setup.py", "bench/point/serve.py", "csrc/a.cu",
                 "engines/core.py", "plot/draw.py", "containers/locks/cpu.txt",
                 "containers/locks/cuda.txt", "containers/extra/none.crt"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return folder
