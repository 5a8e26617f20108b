"""Allocates a model's weights and fills them from a source, each rank only its own slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from engines.kernels.interface import Kernels
from engines.kernels.reference import ReferenceKernels
from engines.models.interfaces import Communicator
from engines.models.linear import Linear, Projection, Share, VocabularyEmbedding
from engines.models.norm import Norm
from engines.models.packed import Packer

REFERENCE: Kernels = ReferenceKernels()
_CHUNK_BYTES = 16


class WeightSource(Protocol):
    """Where the values of a model's weights come from."""

    def fill(
        self, target: Tensor, name: str, shape: tuple[int, ...], start: tuple[int, ...]
    ) -> None:
        """Write a slice of tensor `name`, whose full shape is `shape`, into `target`.

        The slice begins at `start` and has `target`'s shape. Converts to `target`'s type.
        """
        ...


class ShapeRecorder:
    """A source of no values: records which tensors a model needs, with their full shapes."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def fill(
        self, target: Tensor, name: str, shape: tuple[int, ...], start: tuple[int, ...]
    ) -> None:
        """Record the shape."""
        self.shapes[name] = shape


class Builder:
    """Makes the parts of one rank's slice of a model.

    Fused layers (Q, K and V; gate and up) are filled part by part in place, and a CPU's weights are
    packed one by one as they come: nothing is held twice but the tensor in hand.
    """

    def __init__(
        self,
        source: WeightSource,
        communicator: Communicator,
        *,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels = REFERENCE,
    ) -> None:
        """kernels: what fuses small operations."""
        self.source = source
        self.communicator = communicator
        self.dtype = dtype
        self.device = device
        self.weight_bytes = 0
        self._kernels = kernels
        self._packer = Packer() if Packer.serves(dtype, device) else None

    def kernels(self, width: int) -> Kernels:
        """What serves rows of `width` elements: compiled kernels take multiples of 16 bytes, and
        on a CPU no FP16.
        """
        fits = width * self.dtype.itemsize % _CHUNK_BYTES == 0
        typed = self.dtype != torch.float16 or self.device.type != "cpu"
        return self._kernels if fits and typed else REFERENCE

    def replicated(self, name: str, *shape: int) -> Tensor:
        """A tensor that every rank holds whole."""
        tensor = self._empty(*shape)
        self.source.fill(tensor, name, shape, (0,) * len(shape))
        return tensor

    def norm(self, prefix: str, size: int, eps: float, *, bias: bool) -> Norm:
        """LayerNorm with a bias, RMSNorm without."""
        weight = self.replicated(f"{prefix}.weight", size)
        biases = self.replicated(f"{prefix}.bias", size) if bias else None
        return Norm(weight, biases, eps, self.kernels(size))

    def column(
        self,
        prefixes: Sequence[str],
        shares: Sequence[Share],
        inputs: int,
        *,
        bias: bool,
        relu: bool = False,
    ) -> Projection:
        """One product for several layers over the same input: a share of each one's outputs."""
        outputs = sum(share.length for share in shares)
        weight = self._empty(outputs, inputs)
        biases = self._empty(outputs) if bias else None
        begin = 0
        for prefix, share in zip(prefixes, shares, strict=True):
            end = begin + share.length
            self.source.fill(
                weight[begin:end], f"{prefix}.weight", (share.total, inputs), (share.start, 0)
            )
            if biases is not None:
                self.source.fill(
                    biases[begin:end], f"{prefix}.bias", (share.total,), (share.start,)
                )
            begin = end
        return self._projection(weight, biases, relu=relu)

    def row(self, prefix: str, outputs: int, share: Share, *, bias: bool) -> Projection:
        """A layer over a share of its inputs, summed over ranks; rank 0 adds the bias."""
        weight = self._empty(outputs, share.length)
        self.source.fill(weight, f"{prefix}.weight", (outputs, share.total), (0, share.start))
        has_bias = bias and self.communicator.rank == 0
        biases = self.replicated(f"{prefix}.bias", outputs) if has_bias else None
        local, communicator = self._projection(weight, biases), self.communicator
        return local if communicator.size == 1 else lambda x: communicator.all_reduce(local(x))

    def dense(self, prefix: str, outputs: int, inputs: int) -> Projection:
        """A layer without bias that every rank computes whole."""
        return self._projection(self.replicated(f"{prefix}.weight", outputs, inputs), None)

    def embedding(self, name: str, vocab_size: int, width: int) -> VocabularyEmbedding:
        """The token embedding, a range of tokens on each rank."""
        share = Share.padded(vocab_size, self.communicator)
        return VocabularyEmbedding(self._vocabulary(name, share, width), share, self.communicator)

    def head(self, embedding: VocabularyEmbedding, *, tied: bool) -> Projection:
        """The output layer: scores [n, vocab], the same on every rank.

        Tied, it is the embedding's table (packed: a copy in the other layout).
        """
        vocab_size, width = embedding.share.total, embedding.table.shape[1]
        weight = embedding.table
        if not tied:
            weight = self._vocabulary("lm_head.weight", embedding.share, width)
        elif self._packer is not None:
            self.weight_bytes += weight.nbytes
        local, communicator = self._projection(weight, None), self.communicator

        def gathered(x: Tensor) -> Tensor:
            scores = communicator.all_gather(local(x))  # [ranks, n, ceil(vocab / ranks)]
            return scores.transpose(0, 1).flatten(1)[:, :vocab_size]

        return local if communicator.size == 1 else gathered

    def _vocabulary(self, name: str, share: Share, width: int) -> Tensor:
        """A rank's rows of a table [vocab, width], padded with zeros to the same on every rank."""
        table = self._empty(-(-share.total // self.communicator.size), width)
        table[share.length :].zero_()
        self.source.fill(table[: share.length], name, (share.total, width), (share.start, 0))
        return table

    def _projection(self, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Projection:
        packed = self._packer.pack(weight, bias) if self._packer is not None else None
        if packed is None:
            return Linear(weight, bias, relu=relu)
        # oneDNN's own ReLU would make zeros of NaN, and so hide damaged weights.
        return (lambda x: packed(x).relu_()) if relu else packed

    def _empty(self, *shape: int) -> Tensor:
        tensor = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.weight_bytes += tensor.nbytes
        return tensor
