"""The process that drives Ray: it connects, submits tasks and passes on what becomes of them.

Ray lives in a process of its own because it prints to its process's output, ends it when the
cluster is gone, and may wait long where nobody answers: so none of it touches the runner.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.sweep.cluster.messages import Connected, Lost, News, Refused, Submit
from bench.sweep.cluster.nodes import Node, Placement
from bench.sweep.cluster.remote import serve
from bench.sweep.worker import Advanced, one_line
from engines.core.errors import UserError
from engines.execution.ray_cluster import Cluster, connect
from engines.execution.ray_head import SETTINGS

_POLL_S = 0.1
_NODES_PERIOD_S = 1.0
_HEAD_PATIENCE_S = 15  # a head that is gone for longer has to be started anew


@dataclass(frozen=True)
class Destination:
    """Which cluster: an address, or LOCAL for one of this machine's `cpus` cores.

    `folder` is the connection's own, with the code to run, which is shipped to every node, and a
    file for what Ray prints.
    """

    address: str
    folder: Path
    cpus: int

    @property
    def sources(self) -> Path:
        """The code to run."""
        return self.folder / "sources"

    @property
    def log(self) -> Path:
        """What Ray prints."""
        return self.folder / "log"


def drive(destination: Destination, channel: Connection) -> None:
    """Serve the runner at the other end of `channel` until it closes it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides what Ctrl-C means
    _divert_output(destination.log)
    try:
        _serve(destination, channel)
    except (EOFError, OSError):  # the runner has closed its end, or is gone: then this falls to us
        shutil.rmtree(destination.folder, ignore_errors=True)


def _serve(destination: Destination, channel: Connection) -> None:
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(_HEAD_PATIENCE_S))
    try:
        cluster = connect(
            destination.address,
            num_cpus=destination.cpus,
            runtime_env={"working_dir": str(destination.sources), "env_vars": SETTINGS},
        )
    except UserError as error:
        channel.send(Refused(one_line(str(error))))
        return
    try:
        _Driver(channel, cluster).run()
    except (EOFError, OSError):
        raise
    except Exception as error:
        channel.send(Refused(f"Ray failed: {type(error).__name__}: {one_line(str(error))[:300]}"))
    finally:
        cluster.close()


def _divert_output(log: Path) -> None:
    """Send what Ray prints to a file; what matters of it is told over the channel."""
    sys.stdout.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)


@dataclass
class _Driver:
    """Tasks under way, by the keys that the runner gave them."""

    channel: Connection
    cluster: Cluster
    streams: dict[Any, tuple[int, Placement]] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    next_look: float = 0.0

    def run(self) -> None:
        """Pass on commands and news until the channel closes."""
        while True:
            self._look_at_nodes()
            while self.channel.poll(0 if self.streams else _POLL_S):
                self._submit(self.channel.recv())
            if self.streams:
                for news in self._news():
                    self.channel.send(news)

    def _look_at_nodes(self) -> None:
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + _NODES_PERIOD_S
        if self.cluster.head is not None and not self.cluster.head.is_running:
            raise ConnectionError("the cluster of this machine has ended")
        nodes = tuple(sorted(_alive_nodes(), key=lambda node: (node.address, node.node_id)))
        if nodes != self.nodes:
            self.nodes = nodes
            self.channel.send(Connected(nodes))

    def _submit(self, command: Submit) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        placement = command.placement
        measured = command.order.spec.measured
        options: dict[str, Any] = {
            "num_returns": "streaming",
            "num_cpus": placement.cpus,
            "num_gpus": placement.gpus,
            "max_retries": 0,  # the runner counts attempts
            "max_calls": int(measured),  # a process that ends gives a device's memory back
            "scheduling_strategy": NodeAffinitySchedulingStrategy(placement.node_id, soft=False),
        }
        task = ray.remote(**options)(serve)
        self.streams[task.remote(command.order)] = (command.key, placement)

    def _news(self) -> Iterator[News | Lost]:
        """Wait a moment for what tasks say; a task's last word is its outcome or its loss."""
        import ray

        ready: list[Any]
        ready, _ = ray.wait(list(self.streams), num_returns=len(self.streams), timeout=_POLL_S)
        for stream in ready:
            key, placement = self.streams[stream]
            try:
                message = ray.get(next(stream))
            except Exception as error:
                del self.streams[stream]
                yield self._lost(key, placement, error)
                continue
            if not isinstance(message, Advanced):
                del self.streams[stream]  # what becomes of the task now does not matter
            yield News(key, message)

    def _lost(self, key: int, placement: Placement, error: Exception) -> Lost:
        """Say in a line how a task was lost."""
        from ray import exceptions

        where = next((n.address for n in self.nodes if n.node_id == placement.node_id), "its node")
        self.next_look = 0.0
        self._look_at_nodes()
        died = isinstance(error, exceptions.NodeDiedError | exceptions.TaskUnschedulableError)
        if died or placement.node_id not in [node.node_id for node in self.nodes]:
            return Lost(key, f"the node {where} was lost", with_node=True)
        if isinstance(error, exceptions.OutOfMemoryError):
            return Lost(key, f"Ray killed its process on {where} for want of memory")
        if isinstance(error, exceptions.WorkerCrashedError | StopIteration):
            return Lost(key, f"its process on {where} ended without a result")
        text = one_line(str(error))
        return Lost(key, f"its task on {where} was lost ({type(error).__name__}: {text[-200:]})")


def _alive_nodes() -> Sequence[Node]:
    import ray

    return [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=int(node["Resources"].get("CPU", 0)),
            gpus=int(node["Resources"].get("GPU", 0)),
            kind=_accelerator(node["Resources"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _accelerator(resources: dict[str, float]) -> str:
    prefix = "accelerator_type:"
    names = [name.removeprefix(prefix) for name in resources if name.startswith(prefix)]
    return ", ".join(sorted(names))
