"""What the runner, the process that drives Ray and the nodes tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.sweep.cluster.inputs import InputFile
from bench.sweep.cluster.nodes import Node, Placement
from bench.sweep.worker import Advanced, Failed, RunPoint


@dataclass(frozen=True)
class Order:
    """A point to run on a node, with its input files and the hash of the sources to run it by."""

    spec: PointSpec
    files: Mapping[str, InputFile] = field(hash=False)
    run: RunPoint
    source_sha256: str


@dataclass(frozen=True)
class Served:
    """A point's outcome; `machine` is the provenance that the node alone knows."""

    outcome: Outcome
    machine: Mapping[str, Any]
    started: datetime
    ended: datetime


@dataclass(frozen=True)
class Submit:
    """Runner to driver: run `order` at `placement`; news of it carry `key`."""

    key: int
    order: Order
    placement: Placement


@dataclass(frozen=True)
class Connected:
    """Driver to runner: the nodes that are there now, told again when they change."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Refused:
    """Driver to runner: there is no connection, for a reason in one line."""

    error: str


@dataclass(frozen=True)
class News:
    """Driver to runner: what a node said of a point."""

    key: int
    message: Advanced | Served | Failed


@dataclass(frozen=True)
class Lost:
    """Driver to runner: a point's task is gone; `with_node` if its node is, too."""

    key: int
    reason: str
    with_node: bool = False
