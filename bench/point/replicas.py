"""Serving one stream of arrivals with one engine, or with several behind a router.

Every replica is an engine with a clock of its own. Nothing is shared between them, so a replica
need not be advanced before somebody asks for its state at a time: the router for its load when a
request arrives, or the request that it is given. What is asked for is what could be known at that
time: a request that ends with the step under way still counts as unfinished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count, cycle

from bench.point.metrics import RequestLog
from bench.point.spec import DEFAULT_ROUTER, Router
from engines.core.engine import Engine
from engines.core.request import Request

Choose = Callable[[float], "Replica"]


class Replica:
    """One engine and the requests that it was given, served until `until_s` at most.

    `load` counts the requests that are unfinished at the time of the last call. `ending` are
    those of them that end with the step under way, at `clock.now`.
    """

    __slots__ = ("_log", "_until_s", "clock", "ending", "engine", "load")

    def __init__(self, engine: Engine, log: RequestLog, *, until_s: float) -> None:
        self.engine = engine
        self.clock = engine.clock
        self.load = 0
        self.ending = 0
        self._log = log
        self._until_s = until_s

    def advance(self, time_s: float) -> None:
        """Run all steps that start before `time_s` and before serving ends."""
        engine, clock = self.engine, self.clock
        limit_s = min(time_s, self._until_s)
        while clock.now < limit_s:
            self.load -= self.ending
            self.ending = 0
            if not self.load:
                return
            finished = engine.step()
            if finished:
                self.ending = len(finished)
                for group in finished:
                    self._log.add(group)
        if self.ending and clock.now <= time_s:
            self.load -= self.ending
            self.ending = 0

    def add(self, request: Request) -> None:
        """Take a request at its arrival; raises UserError if it could never be served."""
        self.advance(request.arrival_s)
        if self.load == self.ending:  # nothing to do
            self.clock.wait_until(request.arrival_s)
        self.engine.add_request(request)
        self.load += 1


def round_robin(replicas: Sequence[Replica]) -> Choose:
    """Each replica in turn, whatever its load."""
    turns = cycle(replicas)
    return lambda time_s: next(turns)


class LeastLoaded:
    """Chooses the replica with the fewest unfinished requests; of several, the one chosen longest
    ago.

    A load falls only when a step ends. So an arrival looks at the replicas whose step has ended
    since the last arrival, and not at all of them.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._turns = count(len(replicas))
        self._turn_of = list(range(len(replicas)))  # when each was last chosen
        # (load, turn, replica), the best first; what no longer holds is skipped when it comes up.
        self._ranking = [(0, turn, turn) for turn in self._turn_of]
        # (time, whether no request ends then, replica): the end of the step of each that works.
        self._steps: list[tuple[float, bool, int]] = []
        self._works = [False] * len(replicas)  # whether it is in `_steps`

    def __call__(self, time_s: float) -> Replica:
        """Return the replica for a request that arrives at `time_s`; times must not fall."""
        self._advance(time_s)
        turn_of, ranking = self._turn_of, self._ranking
        load, turn, index = heappop(ranking)
        while (load, turn) != (self._replicas[index].load, turn_of[index]):
            load, turn, index = heappop(ranking)
        turn_of[index] = next(self._turns)
        heappush(ranking, (load + 1, turn_of[index], index))
        if not self._works[index]:
            self._works[index] = True
            heappush(self._steps, (time_s, True, index))
        return self._replicas[index]

    def _advance(self, time_s: float) -> None:
        """Bring up to `time_s` all replicas that may change before it, or whose load does then."""
        steps = self._steps
        while steps and steps[0] < (time_s, True):
            index = heappop(steps)[-1]
            replica = self._replicas[index]
            before = replica.load
            replica.advance(time_s)
            if replica.load != before:
                heappush(self._ranking, (replica.load, self._turn_of[index], index))
            self._works[index] = replica.load > 0
            if self._works[index]:
                heappush(steps, (replica.clock.now, not replica.ending, index))


ROUTERS: dict[Router, Callable[[Sequence[Replica]], Choose]] = {
    Router.ROUND_ROBIN: round_robin,
    Router.LEAST_LOADED: LeastLoaded,
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
