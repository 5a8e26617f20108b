"""Runs a part of the check of a GPU in a process of its own, for no longer than its budget.

A kernel's illegal access ends every later call of its process, and a kernel that hangs cannot be
interrupted: so neither may happen in a process that others need.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from engines.core.errors import UserError

_MARGIN_S = 3.0  # in which a part that was told to stop does so, before it is killed
_LEAST_S = 5.0  # with less left a part is not started
LATE = "not started: the time was used up"


@dataclass(frozen=True)
class Run:
    """What every part is told: the device, how much to do, where files go, and when to stop.

    `deadline` is of `time.monotonic`, which is one clock for all processes of a machine.
    """

    device: str
    out: Path
    deadline: float = math.inf
    quick: bool = False
    library: Path | None = None
    sanitize: bool = False
    serving_s: float = 60.0  # of the validation

    @property
    def left_s(self) -> float:
        """Seconds until it is over."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Part:
    """A part of the check; `run` returns a record, whose "passed" is False where a check fails."""

    name: str
    run: Callable[[Run], dict[str, Any]]
    budget_s: float

    def budget(self, run: Run) -> float:
        """Seconds after which it is killed; a CPU, which never hangs, is not held to them."""
        return math.inf if run.device == "cpu" else self.budget_s


def perform(part: Part, run: Run) -> dict[str, Any]:
    """Run one part here; whatever goes wrong in it becomes its record."""
    try:
        return {"passed": True, **part.run(run)}
    except Exception as error:  # a part must not keep the others from running
        lines = [] if isinstance(error, UserError) else traceback.format_exc().splitlines()
        return {"passed": False, "error": f"{type(error).__name__}: {error}", "traceback": lines}


def isolate(part: Part, run: Run) -> dict[str, Any]:
    """Run one part in a process of its own, and kill it and its children after its budget."""
    started = time.monotonic()
    end = min(run.deadline, started + part.budget(run))
    if run.left_s < min(_LEAST_S, part.budget(run)):
        return {"passed": False, "error": LATE, "seconds": 0.0}
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    told = replace(run, deadline=end - _MARGIN_S)
    process = context.Process(target=_perform_and_send, args=(part, told, sender))
    process.start()
    sender.close()
    try:
        record = _receive(receiver, None if math.isinf(end) else end - time.monotonic())
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()
    seconds = time.monotonic() - started
    if record is None:
        record = {"passed": False, "error": f"killed after {seconds:.0f} s"}
    elif not record:
        record = {"passed": False, "error": f"its process died with status {process.exitcode}"}
    return {**record, "seconds": seconds}


def _receive(receiver: Connection, timeout_s: float | None) -> dict[str, Any] | None:
    """What a part's process sends: nothing if it dies, None if it does not answer in time."""
    with receiver:
        if not receiver.poll(timeout_s):
            return None
        try:
            record: dict[str, Any] = receiver.recv()
        except EOFError:
            record = {}
        return record


def _perform_and_send(part: Part, run: Run, sender: Connection) -> None:
    os.setpgid(0, 0)  # so that its own children end with it
    with sender:
        sender.send(perform(part, run))
