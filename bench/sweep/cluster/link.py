"""The runner's end of the connection to a cluster: it starts the driver's process."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.machine import usable_cores
from bench.sweep.cluster.driver import Destination, drive
from bench.sweep.cluster.inputs import stage_sources
from bench.sweep.cluster.messages import Connected, Refused, Submit
from bench.sweep.cluster.nodes import Node
from engines.core.errors import UserError
from engines.execution.ray_address import require_listener

_CONNECT_S = 180.0  # far above what it takes; the driver gives up much sooner
_GRACE_S = 5.0


class Link:
    """A connection to a cluster, for as long as the driver's process lives."""

    def __init__(self, address: str, *, further: Iterable[Path] = ()) -> None:
        """Connect; raises UserError within seconds if that cannot be."""
        require_listener(address)
        self.address = address
        self.nodes: tuple[Node, ...] = ()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-cluster-")
        destination = Destination(address, Path(self._folder.name), usable_cores())
        stage_sources(destination.sources, further=further)
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=drive, args=(destination, theirs), name="ray-driver")
        self._process.start()
        theirs.close()
        try:
            self.nodes = self._first_nodes()
        except BaseException:
            self._process.kill()  # it may wait for an answer for long
            self.close()
            raise
        self._folder.cleanup()  # Ray has the sources

    def _first_nodes(self) -> tuple[Node, ...]:
        if not self._channel.poll(_CONNECT_S):
            raise UserError(f"Ray does not connect to {self.address} within {_CONNECT_S:g} s")
        message = self._receive()
        assert isinstance(message, Connected), f"expected nodes, got {message}"
        return message.nodes

    @property
    def closed(self) -> bool:
        """Whether the connection has ended on this side."""
        return self._channel.closed

    def submit(self, command: Submit) -> None:
        """Send a point to its node; raises UserError if the cluster is gone."""
        try:
            self._channel.send(command)
        except OSError:
            raise self._gone() from None

    def receive(self, timeout_s: float) -> list[Any]:
        """Wait a moment for news; raises UserError if the cluster is gone."""
        news = []
        deadline = time.monotonic() + timeout_s
        while self._channel.poll(max(0.0, deadline - time.monotonic())):
            deadline = 0.0  # take what has come, but wait for no more
            message = self._receive()
            if isinstance(message, Connected):
                self.nodes = message.nodes
            else:
                news.append(message)
        return news

    def _receive(self) -> Any:
        try:
            message = self._channel.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(message, Refused):
            raise UserError(message.error)
        return message

    def _gone(self) -> UserError:
        return UserError(
            f"the connection to the Ray cluster at {self.address} is lost: when it is there again, "
            "run the same command; finished points are kept"
        )

    def close(self) -> None:
        """End the driver's process, and with it every task."""
        self._channel.close()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._folder.cleanup()
