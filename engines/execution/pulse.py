"""How fast a device is at the moment, by a piece of the model's work that is always the same.

The piece is the output layer over a few rows: weights read from memory, as in a decode step.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch

from engines.models.interfaces import Model

ROWS = 8


@dataclass
class Pulse:
    """Times the piece again and again; `readings` are the seconds that it took."""

    model: Model
    readings: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = (ROWS, self.model.spec.hidden_size)
        self._hidden = torch.randn(shape, device=self.model.device).to(self.model.dtype)

    @torch.inference_mode()
    def take(self) -> float:
        """Time the piece once; returns seconds."""
        started = time.perf_counter()
        self.model.logits(self._hidden)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self.readings.append(time.perf_counter() - started)
        return self.readings[-1]

    @property
    def usual(self) -> float:
        """The median of all readings, in seconds."""
        return statistics.median(self.readings)
