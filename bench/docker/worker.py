"""The program in a container: runs the points it is told on standard input, one after the other.

It ends when standard input closes, which happens when the launcher goes, however it goes; the
daemon then removes the container. Standard output carries messages alone: whatever else a library
prints there goes to standard error.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bench.docker.wire import Message, Order, Ready, decode_order, encode
from bench.files import check_writable
from bench.point.serve import run_point
from bench.results.provenance import environment, source_hash
from bench.results.store import MEASURED
from bench.sweep.worker import Failed, Task, attempt
from engines.core.errors import UserError


def main() -> None:
    """Serve orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # by itself, process 1 ignores it
    messages = _claim_output()
    orders = _listen(sys.stdin.buffer)
    source = source_hash()

    def tell(message: Message) -> None:
        messages.write(encode(message))
        messages.flush()

    tell(Ready(source))
    while True:
        tell(_follow(orders.get(), source=source, tell=tell))


def _claim_output() -> BinaryIO:
    """Keep standard output for messages and send all other output to standard error."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return messages


def _listen(stream: BinaryIO) -> queue.Queue[bytes]:
    """Return a queue of the lines that arrive; the process ends with the stream."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _follow(line: bytes, *, source: str, tell: Callable[[Message], None]) -> Message:
    """Run one point; what goes wrong before it starts is told like a point's own failure."""
    try:
        order = decode_order(line)
        check_writable(Path(order.root) / "results")
    except UserError as error:
        return Failed(f"in the container: {error}", fatal=True)
    task = Task(
        spec=order.spec,
        root=Path(order.root),
        run=run_point,
        shared={**_environment(order, source), **order.provenance},
        force=order.force,
    )
    return attempt(task, tell)


def _environment(order: Order, source: str) -> dict[str, object]:
    return environment(source=source, gpu=order.spec.backend in MEASURED)


if __name__ == "__main__":
    main()
