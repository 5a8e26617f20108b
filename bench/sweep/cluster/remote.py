"""What runs on a node: one point, its progress and its outcome as a stream of messages."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.results.provenance import environment, source_hash
from bench.sweep.cluster.inputs import unpack
from bench.sweep.cluster.messages import Order, Served
from bench.sweep.worker import Advanced, Failed, failure_of
from engines.core.errors import UserError

_ADVANCE_PERIOD_S = 0.5
# Of the provenance that points share, what depends on the machine.
_OF_MACHINE = ("python", "packages", "platform", "cpu", "cores", "memory_bytes", "gpus")

Message = Advanced | Served | Failed


def serve(order: Order) -> Iterator[Message]:
    """Run a point; yields its progress now and then, and last what became of it. Never raises."""
    news: SimpleQueue[Message] = SimpleQueue()
    threading.Thread(target=_run, args=(order, news.put), daemon=True).start()
    while True:
        message = news.get()
        yield message
        if not isinstance(message, Advanced):
            return


def _run(order: Order, tell: Callable[[Message], None]) -> None:
    try:
        tell(_serve(order, tell))
    except Exception as error:
        tell(failure_of(error))


def _serve(order: Order, tell: Callable[[Message], None]) -> Served:
    found = source_hash()
    if found != order.source_sha256:
        raise UserError(
            f"the node runs other sources ({found[:12]}) than this command "
            f"({order.source_sha256[:12]}): start the command again"
        )
    started = datetime.now(UTC)
    # Below the sources, which Ray removes even where this process is killed.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="inputs-") as folder:
        spec = unpack(order.spec, order.files, Path(folder))
        outcome = order.run(spec, on_progress=_throttled(tell))
    ended = datetime.now(UTC)
    return Served(outcome, _machine(order), started, ended)


def _throttled(tell: Callable[[Message], None]) -> Callable[[float], None]:
    """Pass progress on no more often than anyone looks at it."""
    due = time.monotonic() + _ADVANCE_PERIOD_S

    def advance(share: float) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _ADVANCE_PERIOD_S
            tell(Advanced(share))

    return advance


def _machine(order: Order) -> dict[str, Any]:
    """The provenance of this node."""
    import ray

    address = ray.util.get_node_ip_address()
    facts = environment(source=order.source_sha256, gpu=order.spec.measured)
    return {
        **{name: facts[name] for name in _OF_MACHINE if name in facts},
        "ray": {"version": ray.__version__, "node": address},
    }
