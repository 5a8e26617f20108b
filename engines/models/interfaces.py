"""What a model asks of its surroundings: attention over a KV cache, and its fellow ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from engines.core.models import ModelSpec
from engines.models.spec import ArchConfig

_T = TypeVar("_T")


class AttentionBackend(Protocol):
    """Attention over a KV cache that the backend owns."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write the batch's keys and values into layer `layer`'s cache, then attend causally.

        q is [T, heads, d], k and v are [T, kv_heads, d]: this rank's heads of the T tokens of the
        batch, in the order given to `Model.forward`. They are views of one fused tensor: the last
        two dimensions are contiguous, rows are further apart. Returns a contiguous [T, heads, d]:
        softmax(q k' / sqrt(d)) v, each token over its own sequence. Query head h reads KV head
        h // (heads / kv_heads).
        """
        ...


@dataclass(frozen=True)
class Communicator:
    """The ranks that hold one model's slices; made as it is, one process with nobody to talk to.

    `rank` is this process's place among the `size` ranks (the degree of tensor parallelism), of
    which `local_size` share its host. All operations are called by all ranks in lock step.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, the caller's to overwrite; may be `tensor` itself."""
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the ranks' tensors (all of one shape), stacked: [size, *tensor.shape]."""
        return tensor.unsqueeze(0)

    def agree(self, tensor: Tensor) -> Tensor:
        """Return rank 0's tensor; may be `tensor` itself, overwritten."""
        return tensor

    def gather_values(self, value: _T) -> list[_T]:
        """Return the ranks' values, small ones of any type; not for a step's own work."""
        return [value]


class Model(ABC):
    """One rank's slice of a decoder-only transformer.

    `num_kv_heads` are this rank's, which its attention backend keeps the keys and values of.
    `weight_bytes` is what its weights occupy on `device`. Neither operation waits for the device
    or looks at values, so both can be captured in a CUDA graph; run them under
    `torch.inference_mode()` to save autograd's bookkeeping.
    """

    spec: ModelSpec
    arch: ArchConfig
    num_kv_heads: int
    dtype: torch.dtype
    device: torch.device
    weight_bytes: int

    @abstractmethod
    def forward(self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend) -> Tensor:
        """Return hidden states [T, hidden], before the final norm.

        `token_ids` and `positions` are [T] integers (int32 or int64) on `device`: the batch's
        tokens, prompts and decodes in any mixture, and each one's place in its sequence.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Return scores [n, vocab] for n rows of `forward`'s result; every rank gets them all."""
