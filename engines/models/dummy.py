"""Dummy weights: seeded values of any model's shape, made as fast as memory can be written.

Experiments force output lengths, so weights do not matter for speed; values only have to look like
a model's (distinct rows, outputs of order one, finite in FP16).
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_STRIDE = 61  # from a row to the next in the pool
_OFFSETS = 1 << 20  # places in the pool at which a tensor may begin
_VECTOR_SCALE = 0.02


class DummyWeights:
    """A `WeightSource`: each tensor is a strided view of one pool of normal numbers, scaled.

    Element (i, j) of a tensor depends on seed, name, i and j alone, so the ranks of any degree of
    tensor parallelism hold slices of the same model.
    """

    def __init__(self, seed: int, *, longest: int, device: torch.device) -> None:
        """`longest` is the largest dimension of any tensor."""
        size = _OFFSETS + (longest + 1) * (_STRIDE + 1)
        generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(size, generator=generator).to(device)
        self._scaled: dict[tuple[float, torch.dtype], Tensor] = {}

    def fill(
        self, target: Tensor, name: str, shape: tuple[int, ...], start: tuple[int, ...]
    ) -> None:
        """Write the slice's values into `target`, in place on its device."""
        offset = zlib.crc32(name.encode()) % _OFFSETS
        if len(shape) == 1:
            pool = self._scaled_pool(_VECTOR_SCALE, target.dtype)
            target.copy_(pool.narrow(0, offset + start[0], target.shape[0]))
            if name.endswith("norm.weight"):
                target.add_(1)
            return
        # Inputs of order one give outputs of order one, whatever the width.
        pool = self._scaled_pool(shape[1] ** -0.5, target.dtype)
        offset += start[0] * _STRIDE + start[1]
        target.copy_(pool.as_strided(tuple(target.shape), (_STRIDE, 1), offset))

    def _scaled_pool(self, scale: float, dtype: torch.dtype) -> Tensor:
        """The pool times `scale`, kept: a model has few widths, and filling is a plain copy."""
        if (scale, dtype) not in self._scaled:
            self._scaled[scale, dtype] = (self._pool * scale).to(dtype)
        return self._scaled[scale, dtype]
