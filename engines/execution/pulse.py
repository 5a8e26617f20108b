"""How fast a device is at the moment, by a piece of the model's work that is always the same.

The piece is a decode step of a few rows without its attention. It does what all steps do, in the
same order and by the same kernels, so what slows them slows it about as much; the output layer
alone, which is bound by memory, was up to half slower where steps were not.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.models.interfaces import Model

ROWS = 8
READINGS = 5  # whose median is the speed: one alone is off by a few percent


class _NoAttention:
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q.contiguous()


@dataclass
class Pulse:
    """Times the piece again and again; `readings` are the seconds that it took.

    They are to be `every_s` apart: the piece takes as long as a small step.
    """

    model: Model
    every_s: float = 0.15
    readings: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rows = torch.arange(ROWS, device=self.model.device)
        self._taken_s = 0.0

    @torch.inference_mode()
    def take(self) -> float:
        """Time the piece once; returns seconds."""
        started = time.perf_counter()
        self.model.logits(self.model.forward(self._rows, self._rows, _NoAttention()))
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self._taken_s = time.perf_counter()
        self.readings.append(self._taken_s - started)
        return self.readings[-1]

    def recent(self) -> float:
        """The median of the last READINGS; a new one is taken if `every_s` have passed."""
        if not self.readings or time.perf_counter() - self._taken_s >= self.every_s:
            self.take()
        return statistics.median(self.readings[-READINGS:])

    @property
    def usual(self) -> float:
        """The median of all readings, in seconds."""
        return statistics.median(self.readings)
