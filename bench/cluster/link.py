"""The runner's end of the connection to a cluster: it starts the driver's process."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cluster.driver import LOCAL, Destination, drive
from bench.cluster.inputs import stage_sources
from bench.cluster.messages import Connected, Loaded, Refused, Submit
from bench.cluster.nodes import Node
from bench.provenance import usable_cores
from engines.core.errors import UserError

AUTO = "auto"
_REACH_S = 5.0  # for a port to answer
_LOAD_S = 60.0  # for Ray to be imported
_CONNECT_S = {LOCAL: 60.0}  # a cluster that has to be started first takes longer
_CONNECT_ELSEWHERE_S = 8.0
_GRACE_S = 5.0


class Link:
    """A connection to a cluster, for as long as the driver's process lives."""

    def __init__(self, address: str, *, further: Iterable[Path] = ()) -> None:
        """Connect; raises UserError within seconds if that cannot be."""
        check_reachable(address)
        self.address = address
        self.nodes: tuple[Node, ...] = ()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-cluster-")
        sources, self._log = Path(self._folder.name) / "sources", Path(self._folder.name) / "log"
        self._log.touch()
        stage_sources(sources, further=further)
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        destination = Destination(address, sources, self._log, usable_cores())
        self._process = context.Process(target=drive, args=(destination, theirs), name="ray-driver")
        self._process.start()
        theirs.close()
        try:
            self._await(Loaded, _LOAD_S)
            connected = self._await(Connected, _CONNECT_S.get(address, _CONNECT_ELSEWHERE_S))
        except BaseException:
            if address != LOCAL:
                self._process.kill()  # it may wait for an answer for long; it has started nothing
            self.close()
            raise
        assert isinstance(connected, Connected)
        self.nodes = connected.nodes

    def _await(self, kind: type[Loaded | Connected], timeout_s: float) -> Loaded | Connected:
        if not self._channel.poll(timeout_s):
            self._check_access()
            raise UserError(
                f"no Ray cluster answers at {self.address} within {timeout_s:g} s: check the "
                "address (ray status, on a node of the cluster, shows it)"
            )
        message = self._receive()
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message}"
        return message

    def _check_access(self) -> None:
        """Raise UserError if Ray has noted that the cluster does not let it in."""
        if b"InvalidAuthToken" in self._log.read_bytes():
            raise UserError(
                f"the Ray cluster at {self.address} lets in only who has its token: set "
                "RAY_AUTH_MODE=token, and have the token of its nodes in ~/.ray/auth_token or in "
                "RAY_AUTH_TOKEN"
            )

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
            self._check_access()
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


def parse_address(address: str) -> tuple[str, int] | None:
    """Host and port; None for a cluster of this machine. Raises UserError for anything else."""
    if address in (LOCAL, AUTO):
        return None
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--ray takes HOST:PORT of a cluster, {AUTO} or {LOCAL}, got '{address}'")
    return host, int(port)


def check_reachable(address: str) -> None:
    """Raise UserError, within seconds, where nothing listens."""
    place = parse_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=_REACH_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error.strerror or error}): check the address "
            "(ray status, on a node of the cluster, shows it)"
        ) from None
