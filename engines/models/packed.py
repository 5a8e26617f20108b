"""Weights kept in the layout that oneDNN's matrix product reads.

A plain product rearranges the weights at every call, and in FP32 PyTorch gives it to MKL, which
leaves AVX-512 unused on processors that are not Intel's. Kept in oneDNN's layout, the dense layers
of an OPT-125M are 1.7 times as fast in FP32 and 1.2 times in BF16 with 64 rows, 2.6 and 1.6 times
with eight (two threads of an AMD EPYC with AVX-512 and BF16).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_PACK_ROWS = 256  # a hint; the layout serves any number of rows
_PROOF_ROWS = (1, 5, 33, 97)
# By which results may differ, as a share of the largest: rounding FP32's sums stays below 2e-6, and
# of BF16's results, with eight bits, the last may differ.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7}


class PackedLinear:
    """x W' + b, W in oneDNN's layout. On a CPU, in the types of `_TOLERANCES`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return [n, outputs]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return product


class Packer:
    """Packs weights where that is known to work.

    The operators are PyTorch's own but not documented, so every shape's results are held against
    the plain product once before they are relied on (a product in fewer bits, which oneDNN can be
    told to use, fails that).
    """

    def __init__(self) -> None:
        self._proven: dict[torch.Size, bool] = {}

    @staticmethod
    def serves(dtype: torch.dtype, device: torch.device) -> bool:
        """Whether this torch has the operators and they take that type on this processor."""
        has_onednn: Callable[[], bool] = torch.backends.mkldnn.is_available
        return (
            device.type == "cpu"
            and dtype in _TOLERANCES
            and has_onednn()
            and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
            and hasattr(torch.ops.mkldnn, "_linear_pointwise")
            and (dtype == torch.float32 or _takes_bf16())
        )

    def pack(self, weight: Tensor, bias: Tensor | None) -> PackedLinear | None:
        """Return the packed layer; None where this shape does not give the plain result."""
        layer = PackedLinear(weight, bias)
        if weight.shape not in self._proven:
            self._proven[weight.shape] = _agrees(layer, weight)
        return layer if self._proven[weight.shape] else None


def _takes_bf16() -> bool:
    asks: Callable[[], bool] | None = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asks is not None and asks()


def _agrees(layer: PackedLinear, weight: Tensor) -> bool:
    """Whether packed and plain products agree over row counts on both sides of tiles."""
    for rows in _PROOF_ROWS:
        x = torch.linspace(-1, 1, rows * weight.shape[1]).view(rows, -1).sin_().to(weight.dtype)
        plain = functional.linear(x, weight, layer.bias)
        if (layer(x) - plain).abs().max() > _TOLERANCES[weight.dtype] * plain.abs().max():
            return False
    return True
