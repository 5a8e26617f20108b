"""How fast a device is at the moment, by two pieces of the model's work that are always the same.

They are steps of few and of many rows without their attention: the first reads the weights, the
second computes with them, and what slows one need not slow the other. Both do what all steps do, in
the same order and by the same kernels; see `engines.sim.steps.Speed`.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.models.interfaces import Model
from engines.sim.steps import HEAVY_ROWS, LIGHT_ROWS, Speed

READINGS = 5  # of each, whose median is the speed: one alone is off by a few percent
HEAVY_EVERY = 4  # readings


class _NoAttention:
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.contiguous()


@dataclass
class Pulse:
    """Times the two again and again; `light` and `heavy` are the seconds that each took.

    Readings are to be `every_s` apart: the light one takes as long as a small step.
    """

    model: Model
    every_s: float = 0.2
    light: list[float] = field(default_factory=list)
    heavy: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = torch.arange(HEAVY_ROWS, device=self.model.device)
        self._taken_s = 0.0
        for _ in range(2):  # kernels are prepared for each number of rows
            self._time(LIGHT_ROWS)
            self._time(HEAVY_ROWS)

    def take(self, number: int) -> tuple[float, float | None]:
        """Time the light one, and at the first of HEAVY_EVERY `number`s the heavy one too."""
        self.light.append(self._time(LIGHT_ROWS))
        if number % HEAVY_EVERY:
            return self.light[-1], None
        self.heavy.append(self._time(HEAVY_ROWS))
        return self.light[-1], self.heavy[-1]

    def recent(self) -> Speed:
        """The speed of the last READINGS; a new one is taken if `every_s` have passed."""
        if not self.light or time.perf_counter() - self._taken_s >= self.every_s:
            self.take(len(self.light))
        return Speed(*(statistics.median(each[-READINGS:]) for each in (self.light, self.heavy)))

    def late_s(self, idle_s: float) -> float:
        """How much longer the light one takes after an idle time than right after that."""
        time.sleep(idle_s)
        woken_s = self._time(LIGHT_ROWS)
        return woken_s - statistics.median(self._time(LIGHT_ROWS) for _ in range(READINGS))

    @property
    def usual(self) -> Speed:
        """The medians of all readings."""
        return Speed(statistics.median(self.light), statistics.median(self.heavy))

    @torch.inference_mode()
    def _time(self, count: int) -> float:
        rows = self._rows[:count]
        started = time.perf_counter()
        self.model.logits(self.model.forward(rows, rows, _NoAttention()))
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self._taken_s = time.perf_counter()
        return self._taken_s - started
