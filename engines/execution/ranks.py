"""Ranks of a model in slices: Ray actors that all run one function, the same engine in each.

Schedulers are deterministic, so ranks that see the same requests at the same times (see
`RankClock`) make the same batches, and nothing has to be sent from one to the others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is compiled

from engines.core.errors import LostWorkerError, UserError
from engines.execution.collectives import LOOPBACK, TorchCommunicator, open_store, reach_store
from engines.execution.ray_session import LOCAL, SETTINGS, RaySession, ray_session

_RESOURCES = {"cpu": "CPU", "cuda": "GPU"}
_PLACE_TIMEOUT_S = 60.0
_LOOK_S = 1.0  # between looks at progress, and at whether the head lives
_NEWS_TIMEOUT_S = 3.0  # until a death that made others fail is known

Progress = Callable[[float], None]


class Place(NamedTuple):
    """Where a rank runs: its process, its node's address and id, and the version of its PyTorch."""

    pid: int
    host: str
    node_id: str
    torch: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Rank:
    """The process of one rank, a Ray actor. It tells its progress while it runs."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        self._rank, self._size = rank, size
        self._device = torch.device(device, 0) if device == "cuda" else torch.device(device)
        self._store: TCPStore | None = None
        self._communicator: TorchCommunicator | None = None
        self._progress = 0.0

    def place(self, folder: str) -> Place:
        """Work in the command's folder, so that its relative paths hold; return the place."""
        import ray

        with suppress(OSError):  # a node may lack it where all paths are absolute
            os.chdir(folder)
        node_id = ray.get_runtime_context().get_node_id()
        return Place(os.getpid(), ray.util.get_node_ip_address(), node_id, torch.__version__)

    def open_store(self, host: str) -> int:
        """Let the others meet this rank, at the port that it returns."""
        self._store = open_store(host)
        return int(self._store.port)

    def join(self, host: str, port: int, local_size: int) -> None:
        """Meet the other ranks; `local_size` of them are on this rank's node."""
        self._store = self._store or reach_store(host, port)
        self._communicator = TorchCommunicator.join(
            self._store,
            rank=self._rank,
            size=self._size,
            local_size=local_size,
            device=self._device,
        )

    def run(self, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call `work(communicator, on_progress, *args)`; returns what it does on rank 0."""
        assert self._communicator is not None, "the rank has not joined the others"
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // self._communicator.local_size))
        result = work(self._communicator, self._note_progress, *args)
        return result if self._rank == 0 else None

    def progress(self) -> float:
        """The finished share, as the running work last told."""
        return self._progress

    def _note_progress(self, share: float) -> None:
        self._progress = share


class Ranks:
    """All ranks, seen from the command. `places` says where each runs."""

    def __init__(
        self, session: RaySession, options: Sequence[Mapping[str, Any]], device: str
    ) -> None:
        import ray

        self._session = session
        actor: Any = ray.remote(max_concurrency=2)(Rank)  # one thread to run, one to tell progress
        self._actors = [
            actor.options(**each).remote(rank, len(options), device)
            for rank, each in enumerate(options)
        ]
        self.places: list[Place] = []

    def meet(self) -> None:
        """Let the ranks find each other; raises UserError for those that do not match."""
        self.places = self._receive([a.place.remote(os.getcwd()) for a in self._actors])
        versions = {place.torch: place for place in self.places}
        if len(versions) > 1:
            found = ", ".join(f"{version} ({place})" for version, place in versions.items())
            raise UserError(f"the cluster's nodes have different versions of PyTorch: {found}")
        local_sizes = Counter(place.node_id for place in self.places)
        host = LOOPBACK if len(local_sizes) == 1 else self.places[0].host
        (port,) = self._receive([self._actors[0].open_store.remote(host)])
        self._receive(
            [
                actor.join.remote(host, port, local_sizes[place.node_id])
                for actor, place in zip(self._actors, self.places, strict=True)
            ]
        )

    def run(self, work: Callable[..., Any], *args: Any, on_progress: Progress | None = None) -> Any:
        """Let every rank call `work(communicator, on_progress, *args)`; returns rank 0's result.

        Raises LostWorkerError for a rank or the cluster's head that died, else what the first rank
        that failed raised.
        """
        calls = [actor.run.remote(work, args) for actor in self._actors]
        result, *_ = self._receive(calls, on_progress)
        return result

    def end(self) -> None:
        """Kill the ranks, whatever they are doing."""
        import ray

        for actor in self._actors:
            with suppress(Exception):  # it may be gone
                ray.kill(actor)

    def _receive(self, calls: Sequence[Any], on_progress: Progress | None = None) -> list[Any]:
        """Wait for the answers of all ranks that were called."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        while True:
            try:
                answers: list[Any] = ray.get(list(calls), timeout=_LOOK_S)
            except GetTimeoutError:
                if not self._session.is_alive():
                    raise LostWorkerError("the head of the Ray cluster died") from None
                if on_progress is not None:
                    with suppress(RayError):  # of a rank that died, which the next look shows
                        on_progress(ray.get(self._actors[0].progress.remote(), timeout=_LOOK_S))
            except RayError:
                raise self._failure(calls) from None
            else:
                return answers

    def _failure(self, calls: Sequence[Any]) -> Exception:
        """Why not all answers came. A death explains the failures of others, so it goes first."""
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

        ended, _ = ray.wait(list(calls), num_returns=len(calls), timeout=_NEWS_TIMEOUT_S)
        raised: list[Exception] = []
        for rank, call in enumerate(calls):
            if call not in ended:
                continue
            name = f"rank {rank} of {len(self._actors)}"
            try:
                ray.get(call)
            except RayActorError as error:
                return LostWorkerError(self._describe_death(name, rank, error))
            except OutOfMemoryError:
                return LostWorkerError(f"Ray killed {name} because its node ran out of memory")
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, UserError):
                    return UserError(str(cause))
                cause.add_note(f"raised on {name}: {error}")
                raised.append(cause)
            except RayError as error:
                raised.append(error)
        return raised[0]

    def _describe_death(self, name: str, rank: int, error: Exception) -> str:
        if self.places:
            return f"{name} died ({self.places[rank]}): killed, or its node was lost"
        return f"{name} could not start: {' '.join(str(error).split())[-400:]}"


@contextmanager
def start_ranks(degree: int, device: str, address: str = LOCAL) -> Iterator[Ranks]:
    """Start ranks on the Ray cluster at `address`, one on each CPU or GPU; ends them afterwards.

    A cluster of this machine's own counts as many CPUs as there are ranks, if there are fewer
    cores. Raises UserError where the cluster cannot be used, or is too small or too busy.
    """
    num_cpus = max(degree, len(os.sched_getaffinity(0)))
    with (
        ray_session(address, num_cpus=num_cpus) as session,
        _reserved(session, degree, device) as options,
    ):
        ranks = Ranks(session, options, device)
        try:
            ranks.meet()
            yield ranks
        finally:
            if session.is_alive():  # else Ray would wait for its head
                ranks.end()


@contextmanager
def _reserved(
    session: RaySession, degree: int, device: str
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Hold a CPU or GPU for each rank, on one node where one is large enough: actors' options."""
    import ray
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        yield _places_of_task(degree, device)
        return
    resource = _RESOURCES[device]
    counts = _counts(resource)
    held = ", ".join(f"{count} on {node}" for node, count in counts.items())
    if sum(counts.values()) < degree:
        raise UserError(
            f"tensor-parallel degree {degree} needs {degree} {resource}s, the Ray cluster has "
            f"{sum(counts.values())} ({held}): lower --tensor-parallel or add nodes"
        )
    strategy = "STRICT_PACK" if max(counts.values()) >= degree else "PACK"
    group = placement_group([{resource: 1}] * degree, strategy=strategy)
    try:
        if not group.wait(_PLACE_TIMEOUT_S):
            free = int(ray.available_resources().get(resource, 0))
            raise UserError(
                f"no {degree} {resource}s of the Ray cluster came free within "
                f"{_PLACE_TIMEOUT_S:.0f} s ({held}; {free} free): wait until they do, or lower "
                "--tensor-parallel"
            )
        asked = {"num_cpus": int(device == "cpu"), "num_gpus": int(device == "cuda")}
        yield [
            {**asked, "scheduling_strategy": PlacementGroupSchedulingStrategy(group, i)}
            for i in range(degree)
        ]
    finally:
        if session.is_alive():
            remove_placement_group(group)


def _places_of_task(degree: int, device: str) -> list[dict[str, Any]]:
    """Places within the Ray task that this process is: on its node, with its devices."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": node}
    if device == "cpu":
        return [options] * degree
    gpus = ray.get_gpu_ids()
    if len(gpus) < degree:
        raise UserError(
            f"tensor-parallel degree {degree} needs {degree} GPUs, this Ray task has {len(gpus)}: "
            "give it more, or lower --tensor-parallel"
        )
    # Ray may hide all GPUs from an actor that asks for none.
    keeping = {**SETTINGS, "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    seen = [{**keeping, "CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus[:degree]]
    return [{**options, "runtime_env": {"env_vars": env}} for env in seen]


def _counts(resource: str) -> dict[str, int]:
    """How many each living node has."""
    import ray

    return {
        f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": int(
            node["Resources"].get(resource, 0)
        )
        for node in ray.nodes()
        if node["Alive"]
    }
