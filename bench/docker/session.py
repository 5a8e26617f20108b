"""A running container with the program inside, as the launcher talks to it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from bench.docker.attached import Attached
from bench.docker.container import Confinement
from bench.docker.frames import Frames
from bench.docker.images import Image
from bench.docker.wire import Message, Order, encode_order

if TYPE_CHECKING:
    from docker import DockerClient

COMMAND = ("python3", "-m", "bench.docker.worker")
_CHUNK = 1 << 16
_KILLED = 137


class Session:
    """One container, from start to removal; it ends with its standard input."""

    def __init__(self, client: DockerClient, image: Image, confinement: Confinement) -> None:
        """Start the container; raises UserError with the daemon's reason if it does not."""
        self.image = image
        self.confinement = confinement
        self.ready = False  # whether the program has said that it can run points
        self.closed = False
        self._frames = Frames()
        self._attached = Attached(client, image, COMMAND, confinement)

    def fileno(self) -> int:
        """The descriptor that is readable when the container has something to say."""
        return self._attached.stream.fileno()

    def send(self, order: Order) -> None:
        """Tell the program to run a point; one that has died is noticed by `receive`."""
        with suppress(OSError):
            self._attached.stream.sendall(encode_order(order))

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; sets `closed` when the container has ended."""
        try:
            data = self._attached.stream.recv(_CHUNK)
        except OSError:
            data = b""
        self.closed = not data
        return self._frames.feed(data)

    @property
    def death(self) -> str:
        """How the container ended that could not say so itself, in one line."""
        status = self._attached.status
        words = f": {self._frames.last_words}" if self._frames.last_words else ""
        if status == _KILLED:
            return f"its container was killed, likely for want of memory: try fewer --jobs{words}"
        return f"its container ended without a result (exit status {status}){words}"

    def stop(self) -> None:
        """End the program and remove the container."""
        self._attached.stop()
        self.closed = True
