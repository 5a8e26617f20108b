"""LayerNorm and RMSNorm, fused with the residual sum before them where a kernel does both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engines.kernels.interface import Kernels


class Norm:
    """LayerNorm with a bias, RMSNorm without; over the hidden dimension."""

    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float, kernels: Kernels) -> None:
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self._kernels = kernels

    def __call__(self, x: Tensor, delta: Tensor | None = None) -> Tensor:
        """Return `x` [T, hidden] normalised, after `delta` has been added to it in place."""
        if delta is not None:
            out = torch.empty_like(x)
            self._kernels.add_norm(out, x, delta, self.weight, self.bias, self.eps)
            return out
        shape = self.weight.shape
        if self.bias is None:
            return functional.rms_norm(x, shape, self.weight, self.eps)
        return functional.layer_norm(x, shape, self.weight, self.bias, self.eps)
