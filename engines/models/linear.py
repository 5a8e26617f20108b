"""Linear layers and vocabulary tables of which each rank holds a slice (Megatron's layout)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engines.models.interfaces import Communicator

Projection = Callable[[Tensor], Tensor]  # [n, inputs] -> [n, outputs]


@dataclass(frozen=True)
class Share:
    """A rank's part of a dimension of `total`: `length` from `start`."""

    total: int
    start: int
    length: int

    @classmethod
    def even(cls, total: int, communicator: Communicator) -> Share:
        """An equal part for each rank; the degree must divide `total`."""
        assert total % communicator.size == 0, f"{communicator.size} ranks do not divide {total}"
        length = total // communicator.size
        return cls(total, communicator.rank * length, length)

    @classmethod
    def padded(cls, total: int, communicator: Communicator) -> Share:
        """An equal part rounded up: the last ranks may hold less, or nothing."""
        step = -(-total // communicator.size)
        start = min(communicator.rank * step, total)
        return cls(total, start, min(step, total - start))

    @classmethod
    def kv_heads(cls, total: int, communicator: Communicator) -> Share:
        """This rank's KV heads: an equal part, or one head that several ranks hold alike."""
        if total >= communicator.size:
            return cls.even(total, communicator)
        assert communicator.size % total == 0, f"{total} heads on {communicator.size} ranks"
        return cls(total, communicator.rank // (communicator.size // total), 1)

    def times(self, width: int) -> Share:
        """The same part where every element is `width` wide."""
        return Share(self.total * width, self.start * width, self.length * width)


class Linear:
    """x W' + b with W [outputs, inputs]. Column-parallel where W holds a share of the outputs.

    With `relu` the result's negative elements are zero: on a GPU the product's own last step, which
    may make zeros of NaN too.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> None:
        self.weight = weight
        self.bias = bias
        self.relu = relu

    def __call__(self, x: Tensor) -> Tensor:
        """Return [n, outputs]."""
        if self.relu and self.bias is not None and x.device.type != "cpu":
            return torch._addmm_activation(self.bias, x, self.weight.t())
        product = functional.linear(x, self.weight, self.bias)
        return product.relu_() if self.relu else product


class VocabularyEmbedding:
    """An embedding table of which each rank holds a range of the tokens."""

    def __init__(self, table: Tensor, share: Share, communicator: Communicator) -> None:
        self.table = table  # [ceil(vocab / ranks), width], zero beyond the share
        self.share = share
        self.communicator = communicator

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Return [T, width], the same on every rank."""
        if self.communicator.size == 1:
            return functional.embedding(token_ids, self.table)
        rows = token_ids - self.share.start
        elsewhere = (rows < 0) | (rows >= self.share.length)
        embedded = functional.embedding(rows.masked_fill_(elsewhere, 0), self.table)
        # One rank adds the row and all others zero: the sum is exact in any precision.
        return self.communicator.all_reduce(embedded.masked_fill_(elsewhere.unsqueeze(1), 0))
