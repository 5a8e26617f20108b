"""Points over a cluster, as a pool: the driver's process runs them, this one writes the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.provenance import provenance_of
from bench.results.store import State, name_of
from bench.sweep.cluster.inputs import pack
from bench.sweep.cluster.messages import Lost, News, Order, Served, Submit
from bench.sweep.cluster.nodes import Ledger, Node, Placement, need_of
from bench.sweep.pool import Ended, Undertaking
from bench.sweep.worker import Advanced, Failed, Finished, RunPoint, failure_of
from engines.core.errors import UserError

_POLL_S = 0.25
NODE_LOSSES = 5  # of one point: after so many nodes it is rather the point's fault


class Connection(Protocol):
    """What the pool needs of `bench.sweep.cluster.link.Link`."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes that are there now."""

    def submit(self, command: Submit) -> None:
        """Send a point to its node."""

    def receive(self, timeout_s: float) -> list[Any]:
        """Wait a moment for news."""

    def close(self) -> None:
        """End every task."""


@dataclass
class _Running:
    """A point that was sent to a node, held against other runs until it ends."""

    spec: PointSpec
    placement: Placement
    hold: ExitStack


@dataclass
class ClusterPool:
    """Sends points to nodes, at most `limit` at a time, and writes what comes back.

    Where no node can run a point, one is waited for as long as `patience_s`.
    """

    undertaking: Undertaking
    link: Connection
    run: RunPoint
    limit: int | None = None
    patience_s: float = 60.0
    _running: dict[int, _Running] = field(default_factory=dict)
    _waiting: list[PointSpec] = field(default_factory=list)  # for a node, or held by another run
    _ended: list[Ended] = field(default_factory=list)
    _losses: dict[PointSpec, int] = field(default_factory=dict)
    _stuck_since: float | None = None

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.link.nodes)
        self._keys = count()

    @property
    def busy(self) -> bool:
        """See `Pool.busy`."""
        return bool(self._running or self._waiting or self._ended)

    def has_room(self, spec: PointSpec) -> bool:
        """See `Pool.has_room`."""
        if not self.busy:
            return True
        if self.limit is not None and len(self._running) >= self.limit:
            return False
        return self._ledger.place(need_of(spec)) is not None

    def start(self, spec: PointSpec) -> None:
        """See `Pool.start`."""
        self._waiting.append(spec)
        self._send_waiting()

    def _send_waiting(self) -> None:
        """Send the points that wait and now can run; raises UserError if none ever can."""
        self._waiting = [spec for spec in self._waiting if not self._send(spec)]
        if self._running or not self._waiting or self._ledger.place(need_of(self._waiting[0])):
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or time.monotonic()
        if time.monotonic() - self._stuck_since > self.patience_s:
            there = ", ".join(map(str, self._ledger.nodes.values())) or "none"
            raise UserError(
                f"no node is left that can run {name_of(self._waiting[0])}: the cluster's nodes "
                f"are {there}. When there are more, run the same command; finished points are kept"
            )

    def _send(self, spec: PointSpec) -> bool:
        """Send a point to a node if it is free and there is room; returns whether it need not wait.

        The lock is held until the point ends, as its own process holds it on this machine.
        """
        placement = self._ledger.place(need_of(spec))
        store = self.undertaking.store
        with ExitStack() as stack:
            if placement is None or not stack.enter_context(store.lock(spec, wait=False)):
                return False
            if not self.undertaking.force and store.state(spec) is State.COMPLETE:
                self._ended.append(Ended(spec, Finished(by_other=True)))
                return True
            key = next(self._keys)
            order = Order(spec, pack(spec), self.run, store.source)
            self.link.submit(Submit(key, order, placement))
            self._ledger.take(placement)
            self._running[key] = _Running(spec, placement, stack.pop_all())
            return True

    def listen(self, display: Display) -> list[Ended]:
        """See `Pool.listen`."""
        for message in self.link.receive(_POLL_S):
            if isinstance(message, Lost):
                self._take_loss(message, display)
            elif isinstance(message, News):
                self._take(message, display)
        self._ledger.update(self.link.nodes)
        self._send_waiting()
        ended, self._ended = self._ended, []
        return ended

    def _take(self, news: News, display: Display) -> None:
        running, message = self._running[news.key], news.message
        if isinstance(message, Advanced):
            display.advance(running.spec, message.fraction)
            return
        outcome = self._write(running.spec, message) if isinstance(message, Served) else message
        self._release(news.key)
        self._ended.append(Ended(running.spec, outcome))

    def _take_loss(self, lost: Lost, display: Display) -> None:
        """A point whose node is gone goes to another one; any other loss is the runner's matter."""
        running = self._release(lost.key)
        spec = running.spec
        if lost.with_node:
            self._ledger.avoid(running.placement.node_id)
            self._losses[spec] = self._losses.get(spec, 0) + 1
        if not lost.with_node or self._losses[spec] >= NODE_LOSSES:
            self._ended.append(Ended(spec, None, lost.reason))
            return
        display.note(f"{name_of(spec)}: {lost.reason}; it is run again")
        self._waiting.append(spec)

    def _release(self, key: int) -> _Running:
        running = self._running.pop(key)
        self._ledger.give_back(running.placement)
        running.hold.close()
        return running

    def _write(self, spec: PointSpec, served: Served) -> Finished | Failed:
        """Write a result as a process of this machine would, with the node's provenance."""
        try:
            provenance = provenance_of(
                spec,
                shared={**self.undertaking.shared, **served.machine},
                inputs=served.outcome.inputs,
                started=served.started,
                ended=served.ended,
            )
            self.undertaking.store.write(spec, served.outcome, provenance=provenance)
        except Exception as error:
            return failure_of(error)
        return Finished()

    def stop(self) -> None:
        """See `Pool.stop`; the connection stays for further runs unless tasks have to be ended."""
        if self._running:
            self.link.close()
        for key in list(self._running):
            self._release(key)
