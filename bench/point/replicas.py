"""Serving one stream of arrivals with one engine, or with several behind a router.

Every replica is an engine with a clock of its own. Nothing is shared between them, so a replica
need not be advanced before somebody asks for its state at a time: the router for its load when a
request arrives, or the request that it is given. What is asked for is what could be known at that
time: a request that ends with the step under way still counts as unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from operator import attrgetter

from bench.point.metrics import RequestLog
from bench.point.spec import DEFAULT_ROUTER, Router
from engines.core.engine import Engine
from engines.core.request import Request

Choose = Callable[[float], "Replica"]


class Replica:
    """One engine and the requests that it was given, served until `until_s` at most.

    `load` counts the requests that are unfinished at the time of the last call; `_ending` are those
    of them that end with the step under way, at `clock.now`.
    """

    __slots__ = ("_ending", "_log", "_until_s", "clock", "engine", "load")

    def __init__(self, engine: Engine, log: RequestLog, *, until_s: float) -> None:
        self.engine = engine
        self.clock = engine.clock
        self.load = 0
        self._ending = 0
        self._log = log
        self._until_s = until_s

    def advance(self, time_s: float) -> None:
        """Run all steps that start before `time_s` and before serving ends."""
        engine, clock = self.engine, self.clock
        limit_s = min(time_s, self._until_s)
        while clock.now < limit_s:
            self.load -= self._ending
            self._ending = 0
            if not self.load:
                return
            finished = engine.step()
            if finished:
                self._ending = len(finished)
                for group in finished:
                    self._log.add(group)
        if self._ending and clock.now <= time_s:
            self.load -= self._ending
            self._ending = 0

    def add(self, request: Request) -> None:
        """Take a request at its arrival; raises UserError if it could never be served."""
        self.advance(request.arrival_s)
        if self.load == self._ending:  # nothing to do
            self.clock.wait_until(request.arrival_s)
        self.engine.add_request(request)
        self.load += 1


def round_robin(replicas: Sequence[Replica]) -> Choose:
    """Each replica in turn, whatever its load."""
    turns = cycle(replicas)
    return lambda time_s: next(turns)


def least_loaded(replicas: Sequence[Replica]) -> Choose:
    """The replica with the fewest unfinished requests; of several, the one chosen longest ago."""
    waiting = list(replicas)  # the one chosen longest ago first

    def choose(time_s: float) -> Replica:
        for replica in replicas:
            if replica.clock.now <= time_s:
                replica.advance(time_s)
        chosen = min(waiting, key=attrgetter("load"))
        waiting.remove(chosen)
        waiting.append(chosen)
        return chosen

    return choose


ROUTERS: dict[Router, Callable[[Sequence[Replica]], Choose]] = {
    Router.ROUND_ROBIN: round_robin,
    Router.LEAST_LOADED: least_loaded,
}


def serve(
    engines: Sequence[Engine],
    requests: Iterable[Request],
    log: RequestLog,
    *,
    router: Router = DEFAULT_ROUTER,
    until_s: float = math.inf,
) -> None:
    """Give every request to the replica chosen when it arrives; serve all to the end.

    From `until_s` on, no step is started and no arrival waited for.
    """
    replicas = [Replica(engine, log, until_s=until_s) for engine in engines]
    choose = ROUTERS[router](replicas)
    for request in requests:
        if request.arrival_s >= until_s:
            break
        choose(request.arrival_s).add(request)
    for replica in replicas:
        replica.advance(math.inf)
