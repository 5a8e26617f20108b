"""Rotary position embedding: each head's halves are rotated by angles that grow with position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.kernels.interface import Kernels
from engines.models.spec import RopeScaling


@dataclass(frozen=True)
class Rotation:
    """The angles of one batch's tokens: cosines and sines [T, d / 2], shared by all layers."""

    cos: Tensor
    sin: Tensor
    kernels: Kernels

    def apply_(self, heads: Tensor) -> None:
        """Rotate `heads` [T, any, d] in place."""
        self.kernels.rotate(heads, self.cos, self.sin)


class Rotary:
    """Cosines and sines for every position, computed once in FP32 as the released models do."""

    def __init__(
        self, frequencies: Tensor, max_positions: int, dtype: torch.dtype, kernels: Kernels
    ) -> None:
        positions = torch.arange(max_positions, dtype=torch.float32, device=frequencies.device)
        angles = torch.outer(positions, frequencies)  # [positions, d / 2]
        self.cos = angles.cos().to(dtype)
        self.sin = angles.sin().to(dtype)
        self._kernels = kernels

    def at(self, positions: Tensor) -> Rotation:
        """The rotation of tokens at `positions` [T]."""
        cos, sin = (table.index_select(0, positions) for table in (self.cos, self.sin))
        return Rotation(cos, sin, self._kernels)


def rotary_frequencies(
    head_size: int, theta: float, scaling: RopeScaling | None, device: torch.device
) -> Tensor:
    """Radians per position [head_size / 2] of each pair of elements, in FP32."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size
    frequencies = 1.0 / theta**exponents
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    assert scaling.kind == "llama3", f"rope scaling {scaling.kind}"
    # How many times a wave fits the trained context: few turns are slowed by the factor, many are
    # kept, and the ramp between blends the two.
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp_(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)
