"""Means over steps: the number of running requests, and the use of the KV slots."""

from __future__ import annotations

from typing import NamedTuple

from engines.core.batch import Batch
from engines.core.kv import KVManager


class StepMeans(NamedTuple):
    """Means over the steps of a window. Shares are in percent of all KV slots.

    `sharing_saving_pct` is 1 - physical blocks / table entries (paper, Fig. 15).
    """

    running_requests: float
    token_pct: float
    reservation_pct: float
    internal_pct: float
    external_pct: float
    used_pct: float
    sharing_saving_pct: float


class StepRecorder:
    """Adds up each step's state while the clock is within a window."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.start_s = start_s
        self.end_s = end_s
        self.num_steps = 0
        self._running = self._token = self._reservation = self._internal = self._used = 0
        self._shared_steps = 0
        self._saving = 0.0

    def record(self, now_s: float, num_running: int, kv: KVManager, batch: Batch) -> None:
        """Count one step that started at `now_s`, if that is within the window."""
        if not self.start_s <= now_s < self.end_s:
            return
        usage = kv.usage(batch)
        self.num_steps += 1
        self._running += num_running
        self._token += usage.token
        self._reservation += usage.reservation
        self._internal += usage.internal
        self._used += usage.used
        if usage.logical_blocks:
            self._shared_steps += 1
            self._saving += 1 - usage.physical_blocks / usage.logical_blocks

    def means(self, num_slots: int) -> StepMeans | None:
        """Means over the recorded steps; None if there was none."""
        if not self.num_steps:
            return None
        to_pct = 100 / (self.num_steps * num_slots)
        known = self._token + self._reservation + self._internal
        return StepMeans(
            running_requests=self._running / self.num_steps,
            token_pct=self._token * to_pct,
            reservation_pct=self._reservation * to_pct,
            internal_pct=self._internal * to_pct,
            external_pct=100 - known * to_pct,
            used_pct=self._used * to_pct,
            sharing_saving_pct=100 * self._saving / self._shared_steps if self._shared_steps else 0,
        )
