"""The simulated time of a device that is late after it was idle."""

from __future__ import annotations

from engines.core.clock import VirtualClock
from engines.sim.steps import StepTable


class WakingClock(VirtualClock):
    """Virtual time in which the first step after idling takes longer, as was measured."""

    __slots__ = ("_ended", "_table")

    def __init__(self, table: StepTable) -> None:
        super().__init__()
        self._table = table
        self._ended = 0.0

    def advance(self, elapsed_s: float) -> None:
        """Add a step's simulated duration, and by how much it is late."""
        idle_s = self.now - self._ended
        if idle_s > 0:
            elapsed_s += self._table.late_s(idle_s)
        self.now += elapsed_s
        self._ended = self.now
