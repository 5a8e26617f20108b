"""A running container with the program inside, as the launcher talks to it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bench.launch.container import Confinement
from bench.launch.daemon import LAUNCHER, refusal
from bench.launch.frames import Frames
from bench.launch.images import Image
from bench.launch.owner import launcher_name, remove
from bench.launch.wire import Message, Order, encode_order
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

COMMAND = ("python3", "-m", "bench.launch.worker")
_CHUNK = 1 << 16
_GRACE_S = 3
_NO_GPU_DRIVER = "could not select device driver"


class Session:
    """One container, from start to removal; it ends with its standard input."""

    def __init__(self, client: DockerClient, image: Image, confinement: Confinement) -> None:
        """Start the container; raises UserError with the daemon's reason if it does not."""
        import docker

        self.image = image
        self.confinement = confinement
        self.ready = False  # whether the program has said that it can run points
        self.closed = False
        self._frames = Frames()
        self._status: int | None = None
        try:
            self._container = client.containers.create(
                image.image_id,
                list(COMMAND),
                stdin_open=True,
                auto_remove=True,
                labels={LAUNCHER: launcher_name()},
                **confinement.options(),
            )
            self._owner, self._stream = _attach(client, self._container.id)
            self._waiter = threading.Thread(target=self._wait, args=(client,), daemon=True)
            self._waiter.start()
            self._container.start()
        except docker.errors.APIError as error:
            self.stop()
            raise UserError(_explain(refusal(error), image.name)) from error
        except BaseException:
            self.stop()
            raise

    def _wait(self, client: DockerClient) -> None:
        """Learn the exit status, which the daemon forgets when it removes the container."""
        import docker

        with suppress(docker.errors.APIError, OSError):
            found = client.api.wait(self._container.id, timeout=None, condition="next-exit")
            self._status = found["StatusCode"]

    def fileno(self) -> int:
        """The descriptor that is readable when the container has something to say."""
        return self._stream.fileno()

    def send(self, order: Order) -> None:
        """Tell the program to run a point; one that has died is noticed by `receive`."""
        with suppress(OSError):
            self._stream.sendall(encode_order(order))

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; sets `closed` when the container has ended."""
        try:
            data = self._stream.recv(_CHUNK)
        except OSError:
            data = b""
        self.closed = not data
        return self._frames.feed(data)

    @property
    def death(self) -> str:
        """How the container ended that could not say so itself, in one line."""
        self._waiter.join(_GRACE_S)
        words = f": {self._frames.last_words}" if self._frames.last_words else ""
        if self._status == 137:
            return f"its container was killed, likely for want of memory: try fewer --jobs{words}"
        return f"its container ended without a result (exit status {self._status}){words}"

    def stop(self) -> None:
        """End the program and remove the container."""
        if hasattr(self, "_stream"):
            for end in (self._stream, self._owner):
                with suppress(OSError):
                    end.close()
        if hasattr(self, "_container"):
            remove(self._container)
        self.closed = True


def _attach(client: DockerClient, container_id: str) -> tuple[Any, socket.socket]:
    """Return the connection to a container's three streams, made before it starts, and its owner.

    The connection lives as long as its owner is kept.
    """
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    owner = client.api.attach_socket(container_id, params=streams)
    connection: socket.socket = getattr(owner, "_sock", owner)
    connection.settimeout(None)
    return owner, connection


def _explain(reason: str, image: str) -> str:
    if _NO_GPU_DRIVER in reason:
        return (
            f"Docker cannot give a GPU to {image}: install the NVIDIA container toolkit and run "
            "`sudo nvidia-ctk runtime configure --runtime=docker`, or use --runner local"
        )
    return f"a container of {image} does not start: {reason}"
