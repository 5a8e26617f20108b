"""Processes that tests start, look for, wait for and kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 120.0  # for a machine that is busy with other things

# For tests that kill parts of a real Ray cluster or of a real launcher of containers. Not all that
# happens then is ours, and how fast depends on what else the machine does: they may fail once
# (the summary shows it as an R), but not twice in a row.
TRIED_TWICE = pytest.mark.flaky(reruns=1)


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Return once the condition holds; too long for `what` is a failure."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.05)


@contextmanager
def started(command: Sequence[str | Path]) -> Iterator[subprocess.Popen[str]]:
    """A command with its output on pipes, at the head of a group that ends with the block."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def state(pid: int) -> tuple[str, int]:
    """The letter of a process's state and its parent; no letter where there is no such process."""
    try:
        letter, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return letter, int(parent)


def alive(pid: int) -> bool:
    """Whether a process still runs (a zombie does not)."""
    return state(pid)[0] not in ("", "Z", "X")


def command_of(pid: int) -> str:
    """The command line of a process; empty where there is none any more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def everything() -> list[int]:
    """The processes that are there now."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def descendants(root: int) -> dict[int, str]:
    """Command lines of the processes below one."""
    children: dict[int, list[int]] = {}
    for pid in everything():
        children.setdefault(state(pid)[1], []).append(pid)
    found, todo = [], [root]
    while todo:
        found += (below := children.get(todo.pop(), []))
        todo += below
    return {pid: command_of(pid) for pid in found}


def marked(word: str) -> dict[int, str]:
    """Command lines of the processes whose environment holds a word."""
    found = {}
    for pid in everything():
        with suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if word.encode() in environment and (command := command_of(pid)):
                found[pid] = command
    return found


def the_one(commands: dict[int, str], pattern: str) -> int:
    """The process whose command line has a pattern.

    One that starts others is there twice for a moment, the copy still with the command line of the
    original: the one that is nobody's child among them is meant.
    """
    found = {pid for pid, command in commands.items() if re.search(pattern, command)}
    originals = [pid for pid in found if alive(pid) and state(pid)[1] not in found]
    assert len(originals) == 1, {pid: commands[pid] for pid in found}
    return originals[0]
