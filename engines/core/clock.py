"""The engine's time: virtual in the simulation, wall time for real execution."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the start of serving."""

    @property
    def now(self) -> float:
        """Current time in seconds."""

    def advance(self, elapsed_s: float) -> None:
        """Account for a step that the executor says took `elapsed_s` seconds."""

    def wait_until(self, time_s: float) -> None:
        """Wait until `time_s`; do nothing if that is in the past."""


class VirtualClock:
    """Time that moves only when advanced, so that results do not depend on the machine."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, elapsed_s: float) -> None:
        """Add a step's simulated duration."""
        self.now += elapsed_s

    def wait_until(self, time_s: float) -> None:
        """Jump to `time_s` unless it is past."""
        self.now = max(self.now, time_s)


class WallClock:
    """Real time since construction; steps advance it by themselves."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since construction."""
        return time.perf_counter() - self._start

    def advance(self, elapsed_s: float) -> None:
        """Do nothing: the step already took its time."""

    def leave_out(self, seconds: float) -> None:
        """Let the time go back by what a measurement took that is no part of serving."""
        self._start += seconds

    def wait_until(self, time_s: float) -> None:
        """Sleep until `time_s`."""
        time.sleep(max(0.0, time_s - self.now))
