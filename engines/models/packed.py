"""FP32 weights kept in the layout that MKL's matrix product reads.

A plain product rearranges the weights at every call. Kept rearranged, all dense layers of an
OPT-125M together are 1.7 times as fast at 8 rows and 1.2 to 1.35 times at 32 to 256 (two threads of
an AVX-512 Xeon); a single row gains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_PACK_ROWS = 256  # fastest over 1 to 512 rows; packing for fewer slows larger batches
_PROOF_ROWS = (1, 5, 33, 97)
_TOLERANCE = 1e-4  # of the largest result; rounding alone stays below 2e-6


class PackedLinear:
    """x W' + b, W in MKL's layout. CPU and FP32 only."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, _PACK_ROWS)
        # The operator takes the number of outputs from the plain weight and reads none of it.
        self.shape_only = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return [n, outputs]."""
        # Naming the batch's own row count makes the operator use the packed weight.
        product: Tensor = torch.ops.mkl._mkl_linear(
            x, self.packed, self.shape_only, self.bias, x.shape[0]
        )
        return product


class Packer:
    """Packs weights where that is known to work.

    MKL documents a packed weight for the row count it was packed for; its layout does not depend on
    it, which is proved here for every shape once before it is relied on.
    """

    def __init__(self) -> None:
        self._proven: dict[torch.Size, bool] = {}

    @staticmethod
    def serves(dtype: torch.dtype, device: torch.device) -> bool:
        """Whether this torch has the operators (MKL builds do) and they take that type there."""
        return (
            device.type == "cpu"
            and dtype == torch.float32
            and hasattr(torch.ops.mkl, "_mkl_reorder_linear_weight")
            and hasattr(torch.ops.mkl, "_mkl_linear")
        )

    def pack(self, weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
        """Return the packed layer; None where this shape does not give the plain result."""
        layer = PackedLinear(weight, bias)
        if weight.shape not in self._proven:
            self._proven[weight.shape] = _agrees(layer, weight)
        return layer if self._proven[weight.shape] else None


def _agrees(layer: PackedLinear, weight: Tensor) -> bool:
    """Whether packed and plain products agree over row counts on both sides of MKL's tiles."""
    for rows in _PROOF_ROWS:
        x = torch.linspace(-1, 1, rows * weight.shape[1]).view(rows, -1).sin_()
        plain = functional.linear(x, weight, layer.bias)
        if (layer(x) - plain).abs().max() > _TOLERANCE * plain.abs().max():
            return False
    return True
