"""What the launcher and the program in a container say to each other: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.files import plain
from bench.point.spec import PointSpec
from bench.sweep.worker import Advanced, Failed, Finished


@dataclass(frozen=True)
class Order:
    """A point for the container, with what of its provenance only the launcher knows."""

    spec: PointSpec
    root: str
    provenance: Mapping[str, Any]
    force: bool


@dataclass(frozen=True)
class Ready:
    """The program waits for orders; `source` is the hash of the sources that it runs."""

    source: str


Message = Ready | Advanced | Finished | Failed
_KINDS: dict[str, type[Message]] = {
    kind.__name__.lower(): kind for kind in (Ready, Advanced, Finished, Failed)
}


def encode_order(order: Order) -> bytes:
    """Write an order as a line."""
    return _line({**asdict(order), "spec": order.spec.to_dict()})


def decode_order(line: bytes) -> Order:
    """Read an order; raises UserError for the settings of another version."""
    values = json.loads(line)
    return Order(**{**values, "spec": PointSpec.from_dict(values["spec"])})


def encode(message: Message) -> bytes:
    """Write a message as a line."""
    return _line({"kind": type(message).__name__.lower(), **asdict(message)})


def decode(line: bytes) -> Message | None:
    """Read a message; None for a line that is none, such as a library's own output."""
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("kind")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return kind(**values)


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(values)).encode() + b"\n"
