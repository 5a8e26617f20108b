"""The nodes of a cluster and what of them is taken: which point runs where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.point.spec import PointSpec
from engines.core.errors import UserError


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its address, cores and GPUs (`kind` names them, if known)."""

    node_id: str
    address: str
    cpus: int
    gpus: int = 0
    kind: str = ""

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPUs {self.kind}".rstrip() if self.gpus else ""
        return f"{self.address} ({self.cpus} CPUs{gpus})"


@dataclass(frozen=True)
class Need:
    """What a point takes of one node: CPUs, GPUs with their share of the CPUs, or all of it.

    The workers of an engine with tensor parallelism share what its point takes.
    """

    cpus: int = 1
    gpus: int = 0
    whole_node: bool = False


def need_of(spec: PointSpec) -> Need:
    """A core for a simulation, GPUs for a model on them, a node of its own for one on the CPU."""
    degree = spec.tensor_parallel or 1
    if spec.backend == "cuda":
        return Need(gpus=degree)
    if spec.backend == "cpu":
        return Need(cpus=degree, whole_node=True)
    return Need()


@dataclass(frozen=True)
class Placement:
    """The node that a point runs on, and what it takes there."""

    node_id: str
    cpus: int
    gpus: int = 0


class Ledger:
    """What is free on each node, as far as these points are concerned."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._taken: dict[str, tuple[int, int]] = {}
        self._avoided: set[str] = set()
        self.nodes: dict[str, Node] = {}
        self.update(nodes)

    def update(self, nodes: Iterable[Node]) -> None:
        """Learn which nodes are there now."""
        self.nodes = {n.node_id: n for n in nodes if n.node_id not in self._avoided}

    def avoid(self, node_id: str) -> None:
        """Never use a node again that was lost: should its machine return, it has a new id."""
        self._avoided.add(node_id)
        self.nodes.pop(node_id, None)

    def place(self, need: Need) -> Placement | None:
        """A place for a point, without taking it yet; None where there is no room now.

        Of the nodes with room, the one with most; what needs no GPU prefers nodes without.
        """
        fitting = [node for node in self.nodes.values() if self._fits(node, need)]
        if not fitting:
            return None
        node = max(fitting, key=lambda node: self._attraction(node, need))
        return Placement(node.node_id, _share(node, need), need.gpus)

    def take(self, placement: Placement) -> None:
        """Book what a point takes."""
        self._add(placement, 1)

    def give_back(self, placement: Placement) -> None:
        """Book it out again."""
        self._add(placement, -1)

    def _add(self, placement: Placement, sign: int) -> None:
        cpus, gpus = self._taken.get(placement.node_id, (0, 0))
        self._taken[placement.node_id] = (
            cpus + sign * placement.cpus,
            gpus + sign * placement.gpus,
        )

    def _free(self, node: Node) -> tuple[int, int]:
        cpus, gpus = self._taken.get(node.node_id, (0, 0))
        return node.cpus - cpus, node.gpus - gpus

    def _fits(self, node: Node, need: Need) -> bool:
        cpus, gpus = self._free(node)
        if need.whole_node:
            return cpus == node.cpus >= need.cpus and gpus == node.gpus
        return cpus >= _share(node, need) and gpus >= need.gpus

    def _attraction(self, node: Node, need: Need) -> tuple[int, int]:
        cpus, gpus = self._free(node)
        return (gpus if need.gpus else -node.gpus, cpus)


def _share(node: Node, need: Need) -> int:
    """CPUs for a point: the node's, an equal part of them for each GPU, or what it needs."""
    if need.whole_node:
        return node.cpus
    if need.gpus and node.gpus:
        return max(1, node.cpus // node.gpus) * need.gpus
    return need.cpus


def check_room(nodes: Sequence[Node], specs: Iterable[PointSpec]) -> None:
    """Raise UserError if a point could not run even on the idle cluster, with what is there."""
    ledger = Ledger(nodes)
    there = ", ".join(map(str, nodes)) or "no node"
    for spec in specs:
        need = need_of(spec)
        if ledger.place(need) is None:
            what = f"{need.gpus} GPUs" if need.gpus else f"{need.cpus} CPUs"
            raise UserError(
                f"{spec.model} with tensor parallelism {spec.tensor_parallel or 1} on backend "
                f"'{spec.backend}' needs a node with {what}, but the cluster has {there}: add "
                "nodes, or leave this model out"
            )
