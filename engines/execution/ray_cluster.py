"""A Ray cluster: one of this machine's own, or one that is there; and places on it for ranks."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.core.errors import UserError
from engines.execution.ray_address import LOCAL, require_cluster, require_listener
from engines.execution.ray_head import SETTINGS, RayHead

_PLACE_TIMEOUT_S = 60.0
_RESOURCES = {"cpu": "CPU", "cuda": "GPU"}
_KEEP_VISIBLE = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Cluster:
    """A connection to Ray, unless it was there before, and the head of a cluster of our own."""

    connected: bool = False
    head: RayHead | None = None

    def is_alive(self) -> bool:
        """Whether the head still answers, as far as that is for us to find out."""
        if not self.connected:
            return True
        if self.head is not None and not self.head.is_running:
            return False
        import ray

        if not ray.is_initialized():
            return True
        try:
            require_listener(ray.get_runtime_context().gcs_address)
        except UserError:
            return False
        return True

    def close(self) -> None:
        """End what was begun."""
        import ray

        if self.connected and self.is_alive():  # Ray would wait a minute for a head that is gone
            ray.shutdown()
        if self.head is not None:
            self.head.close()


@dataclass(frozen=True)
class Reservation:
    """For each rank the options of its actor, and what holds the places free (if anything)."""

    places: Sequence[Mapping[str, Any]]
    group: Any = None

    def release(self) -> None:
        """Give the places back."""
        if self.group is not None:
            from ray.util import remove_placement_group

            remove_placement_group(self.group)


def connect(
    address: str, *, num_cpus: int, runtime_env: Mapping[str, Any] | None = None
) -> Cluster:
    """Start Ray here (LOCAL), or connect to HOST:PORT or this node's cluster (AUTO).

    Raises UserError with the remedy, within ten seconds where no cluster answers. A cluster of this
    machine's own counts `num_cpus` cores. `runtime_env` is what Ray brings to tasks and actors.
    """
    head = None
    if address == LOCAL:
        head = RayHead(num_cpus)
    else:
        require_cluster(address)
    os.environ.update(SETTINGS)  # which Ray reads when it is imported
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    cluster = Cluster(connected=True, head=head)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address if head is None else head.address,
            runtime_env=None if runtime_env is None else dict(runtime_env),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except BaseException as error:
        cluster.close()
        if isinstance(error, Exception):  # Ray has no type for what may go wrong here
            raise UserError(_reason(address, str(error))) from error
        raise
    _silence()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray's would print a stack trace
    return cluster


def join_or_connect(address: str, *, degree: int) -> Cluster:
    """The cluster for ranks: the one that this process belongs to already, or see `connect`.

    One of this machine's own counts as many CPUs as there are ranks, if there are fewer cores.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "--tensor-parallel above 1 needs Ray, which is not installed: "
            "pip install 'astra-artifact[ray]' (in a checkout: .venv/bin/pip install -e '.[ray]')"
        )
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return Cluster()
    return connect(address, num_cpus=max(degree, len(os.sched_getaffinity(0))))


def reserve(degree: int, device: str) -> Reservation:
    """Hold a CPU or GPU free for each rank, on one node where one is large enough.

    Within a Ray task the ranks share what the task has been given. Raises UserError where the
    cluster is too small or too busy.
    """
    inherited = _inherited(degree, device)
    if inherited is not None:
        return inherited
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    resource = _RESOURCES[device]
    largest = _require_size(degree, resource)
    strategy = "STRICT_PACK" if largest >= degree else "PACK"
    group = placement_group([{resource: 1}] * degree, strategy=strategy)
    counts = {"num_cpus": int(device == "cpu"), "num_gpus": int(device == "cuda")}
    places = [
        {**counts, "scheduling_strategy": PlacementGroupSchedulingStrategy(group, i)}
        for i in range(degree)
    ]
    reservation = Reservation(places, group)
    if not group.wait(_PLACE_TIMEOUT_S):
        reservation.release()
        raise UserError(
            f"no {degree} {resource}s of the Ray cluster came free within {_PLACE_TIMEOUT_S:.0f} "
            f"s ({_holdings(resource)}): wait until they do, or lower --tensor-parallel"
        )
    return reservation


def _silence() -> None:
    """Keep off standard output what Ray prints there when a process dies: we say it ourselves."""
    from ray._private import worker

    worker.print_to_stdstream = lambda *_args, **_named: None


def _reason(address: str, text: str) -> str:
    words = " ".join(text.split())
    if "Version mismatch" in words:
        found = words.partition("Version mismatch:")[2].strip()
        return (
            f"the Ray cluster at {address} runs other versions than this command. {found} Install "
            "the same versions on both sides"
        )
    return f"cannot use the Ray cluster at {address}: {words[:300]} (run on one of its nodes)"


def _inherited(degree: int, device: str) -> Reservation | None:
    """The places of a Ray task that this process is: on its node, with its devices."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return None
    node = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=False)
    options = {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": node}
    if device == "cpu":
        return Reservation([options] * degree)
    gpus = ray.get_gpu_ids()
    if len(gpus) < degree:
        raise UserError(
            f"tensor-parallel degree {degree} needs {degree} GPUs, this Ray task has {len(gpus)}: "
            "give it more, or lower --tensor-parallel"
        )
    keeping = {
        **SETTINGS,
        _KEEP_VISIBLE: "1",
    }  # else Ray may hide all GPUs of one that asks for none
    seen = [{**keeping, "CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus[:degree]]
    return Reservation([{**options, "runtime_env": {"env_vars": env}} for env in seen])


def _require_size(degree: int, resource: str) -> int:
    """How many the largest node has; raises UserError if all together have too few."""
    counts = _counts(resource)
    if sum(counts.values()) < degree:
        raise UserError(
            f"tensor-parallel degree {degree} needs {degree} {resource}s, the Ray cluster has "
            f"{sum(counts.values())} ({_holdings(resource)}): lower --tensor-parallel or add nodes"
        )
    return max(counts.values())


def _counts(resource: str) -> dict[str, int]:
    """How many each living node has."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {
        f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}": int(
            node["Resources"].get(resource, 0)
        )
        for node in nodes
    }


def _holdings(resource: str) -> str:
    import ray

    free = int(ray.available_resources().get(resource, 0))
    each = ", ".join(f"{count} on {node}" for node, count in _counts(resource).items())
    return f"{each}; {free} free"
