"""Parts of the check of a GPU that fail in every way, for processes of their own."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from benchmarks.gpu_run import Part, Run
from engines.core.errors import UserError


def explode(run: Run) -> dict[str, Any]:
    raise RuntimeError("on purpose")


def refuse(run: Run) -> dict[str, Any]:
    raise UserError("no memory")


def disappoint(run: Run) -> dict[str, Any]:
    return {"passed": False}


def die(run: Run) -> dict[str, Any]:
    os.abort()


def answer(run: Run) -> dict[str, Any]:
    return {"answer": 42, "left_s": run.left_s}


def hang(run: Run) -> dict[str, Any]:
    """Wait for a process that never ends, whose number is in a file."""
    process = subprocess.Popen(["sleep", "1000"])
    (run.out / "sleeping").write_text(str(process.pid))
    time.sleep(1000)
    return {}


FAILING = tuple(Part(f.__name__, f, 60) for f in (explode, refuse, disappoint, die, answer))
FOUR = (*(Part(name, answer, 60) for name in ("first", "second", "third")), Part("hang", hang, 60))
