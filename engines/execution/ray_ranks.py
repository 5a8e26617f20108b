"""Ranks as Ray actors: started together, asked together, and gone together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engines.core.errors import LostWorkerError, UserError
from engines.execution.collectives import LOOPBACK
from engines.execution.ray_address import LOCAL
from engines.execution.ray_cluster import Cluster, Reservation, join_or_connect, reserve

_LOOK_S = 1.0  # between looks at whether the head lives, while answers take longer
_NEWS_TIMEOUT_S = 3.0  # until a death that made others fail is known


@dataclass(frozen=True)
class RankPlan:
    """How many ranks on which kind of device ("cpu", "cuda"), and the cluster's address."""

    degree: int
    device: str
    address: str = LOCAL


class RayRanks:
    """All ranks of a model. Whatever goes wrong with one ends them all: none waits for the dead.

    `pids` are their processes, each on its own node.
    """

    def __init__(self, cluster: Cluster, reservation: Reservation, device: str) -> None:
        import ray

        from engines.execution.rank import Rank

        self._cluster = cluster
        self._reservation = reservation
        self.degree = len(reservation.places)
        actor: Any = ray.remote(Rank)
        self._actors = [
            actor.options(**place).remote(rank, self.degree, device)
            for rank, place in enumerate(reservation.places)
        ]
        self._whereabouts = [""] * self.degree
        self.pids: list[int] = []
        self.is_open = True

    @classmethod
    def start(cls, plan: RankPlan) -> RayRanks:
        """Find places on the cluster and let the ranks meet; raises UserError."""
        cluster = join_or_connect(plan.address, degree=plan.degree)
        reservation = Reservation([])
        try:
            reservation = reserve(plan.degree, plan.device)
            ranks = cls(cluster, reservation, plan.device)
        except BaseException:
            reservation.release()
            cluster.close()
            raise
        try:
            ranks._meet()
        except BaseException:
            ranks.close()
            raise
        return ranks

    def ask(self, method: str, *args: Any) -> list[Any]:
        """Call a method on all ranks and return their answers; see `receive`."""
        return self.receive(self.send(method, *args))

    def send(self, method: str, *args: Any) -> Sequence[Any]:
        """Call a method on all ranks without waiting; returns what `receive` takes."""
        return [getattr(actor, method).remote(*args) for actor in self._actors]

    def receive(self, calls: Sequence[Any]) -> list[Any]:
        """Wait for the answers of all ranks.

        If one fails, all are ended. Raises LostWorkerError for a rank or the cluster's head that
        died, else what the first that failed raised.
        """
        from ray.exceptions import GetTimeoutError, RayError

        while True:
            try:
                answers: list[Any] = _get(calls, timeout_s=_LOOK_S)
            except GetTimeoutError:
                if self._cluster.is_alive():
                    continue
                failure: Exception = LostWorkerError("the head of the Ray cluster died")
            except RayError:
                failure = self._failure(calls)
            else:
                return answers
            self.close()
            raise failure from None

    def close(self) -> None:
        """End all ranks, and what was started or held for them."""
        if not self.is_open:
            return
        self.is_open = False
        import ray

        if self._cluster.is_alive():
            for actor in self._actors:
                with suppress(Exception):  # it may be gone
                    ray.kill(actor)
            with suppress(Exception):
                self._reservation.release()
        self._cluster.close()

    def _meet(self) -> None:
        """Let the ranks find each other, and refuse those that do not match."""
        places = self.ask("place")
        self.pids = [place.pid for place in places]
        self._whereabouts = [f"process {p.pid} on {p.node}" for p in places]
        versions = {
            place.torch: where for place, where in zip(places, self._whereabouts, strict=True)
        }
        if len(versions) > 1:
            found = ", ".join(f"{version} ({where})" for version, where in versions.items())
            raise UserError(f"the cluster's nodes have different versions of PyTorch: {found}")
        sharers = Counter(place.node_id for place in places)
        host = LOOPBACK if len(sharers) == 1 else places[0].node
        (port,) = self.receive([self._actors[0].open_store.remote(host)])
        self.receive(
            [
                actor.join.remote(host, port, sharers[place.node_id])
                for actor, place in zip(self._actors, places, strict=True)
            ]
        )

    def _failure(self, calls: Sequence[Any]) -> Exception:
        """Why not all answers came. A death explains the failures of others, so it goes first."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_NEWS_TIMEOUT_S)
        raised: list[Exception] = []
        for rank, call in enumerate(calls):
            if call not in ended:
                continue
            try:
                _get([call], timeout_s=None)
            except RayActorError as error:
                return LostWorkerError(self._obituary(rank, error))
            except OutOfMemoryError:
                return LostWorkerError(
                    f"Ray killed rank {rank} of {self.degree} for want of memory on its node"
                )
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, UserError):
                    return UserError(str(cause))
                cause.add_note(f"raised on rank {rank} of {self.degree}: {error}")
                raised.append(cause)
            except RayError as error:
                raised.append(error)
        return raised[0]

    def _obituary(self, rank: int, error: Exception) -> str:
        where = self._whereabouts[rank]
        if where:
            return f"rank {rank} of {self.degree} died ({where}): killed, or its node was lost"
        return (
            f"rank {rank} of {self.degree} could not start: {' '.join(str(error).split())[-400:]}"
        )


def _get(calls: Sequence[Any], *, timeout_s: float | None) -> Any:
    import ray

    return ray.get(list(calls), timeout=timeout_s)
