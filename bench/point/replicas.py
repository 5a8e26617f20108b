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

from bench.point.metrics import RequestLog
from bench.point.platform import Progress
from bench.point.spec import DEFAULT_ROUTER, Router
from engines.core.clock import VirtualClock
from engines.core.engine import Engine
from engines.core.request import Request

SIMULATED_PERIOD_STEPS = 4096  # between two reports of progress
REAL_PERIOD_STEPS = 16  # of a model: a second or so on a CPU
Choose = Callable[[float], "Replica"]


class Replica:
    """One engine and the requests that it was given, served until `until_s` at most."""

    __slots__ = ("_clock", "_ending", "_engine", "_log", "_tell", "_unfinished", "_until_s")

    def __init__(
        self, engine: Engine, log: RequestLog, *, until_s: float, tell: Callable[[int], None]
    ) -> None:
        self._engine = engine
        self._clock = engine.clock
        self._log = log
        self._until_s = until_s
        self._tell = tell  # called after each step with their number
        self._unfinished = 0
        self._ending = 0  # of these, how many end when the clock's time has come

    def advance(self, time_s: float) -> None:
        """Run all steps that start before `time_s` and before serving ends."""
        engine, clock = self._engine, self._clock
        limit_s = min(time_s, self._until_s)
        while clock.now < limit_s and engine.has_work:
            self._unfinished -= self._ending
            finished = engine.step()
            for group in finished:
                self._log.add(group)
            self._ending = len(finished)
            self._tell(engine.num_steps)

    def load_at(self, time_s: float) -> int:
        """Requests that are unfinished at `time_s`; times that are asked for must not fall."""
        self.advance(time_s)
        return self._unfinished - (self._ending if self._clock.now <= time_s else 0)

    def add(self, request: Request) -> None:
        """Take a request at its arrival; raises UserError if it could never be served."""
        self.advance(request.arrival_s)
        if not self._engine.has_work:
            self._clock.wait_until(request.arrival_s)
        self._engine.add_request(request)
        self._unfinished += 1


def round_robin(replicas: Sequence[Replica]) -> Choose:
    """Each replica in turn, whatever its load."""
    turns = cycle(replicas)
    return lambda time_s: next(turns)


def least_loaded(replicas: Sequence[Replica]) -> Choose:
    """The replica with the fewest unfinished requests; of several, the one next in turn."""
    order = list(replicas)

    def choose(time_s: float) -> Replica:
        loads = [replica.load_at(time_s) for replica in order]
        chosen = order.pop(loads.index(min(loads)))
        order.append(chosen)
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
    on_progress: Progress | None = None,
) -> None:
    """Give every request to the replica chosen when it arrives; serve all to the end.

    From `until_s` on, no step is started and no arrival waited for.
    """
    simulated = isinstance(engines[0].clock, VirtualClock)
    period = max(1, SIMULATED_PERIOD_STEPS // len(engines)) if simulated else REAL_PERIOD_STEPS

    def tell(num_steps: int) -> None:
        if on_progress is not None and num_steps % period == 0:
            on_progress(log.finished_share)

    replicas = [Replica(engine, log, until_s=until_s, tell=tell) for engine in engines]
    choose = ROUTERS[router](replicas)
    for request in requests:
        if request.arrival_s >= until_s:
            break
        choose(request.arrival_s).add(request)
    for replica in replicas:
        replica.advance(math.inf)
