"""Attention written plainly, each sequence's keys and values in one dense tensor: for checking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DenseAttention:
    """An `AttentionBackend` without blocks, kernels or speed."""

    def __init__(self) -> None:
        self._cache: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # (layer, sequence)
        self._batch: list[tuple[int, int]] = []

    def begin(self, batch: Sequence[tuple[int, int]]) -> None:
        """Announce the next forward pass: (sequence, number of its tokens) in the batch's order."""
        self._batch = list(batch)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        lengths = [length for _, length in self._batch]
        parts = zip(
            self._batch,
            *(tensor.split_with_sizes(lengths) for tensor in (q, k, v)),
            strict=True,
        )
        outputs = []
        for (sequence, _), queries, new_keys, new_values in parts:
            past = self._cache.get((layer, sequence))
            keys = torch.cat((past[0], new_keys)) if past else new_keys.clone()
            values = torch.cat((past[1], new_values)) if past else new_values.clone()
            self._cache[layer, sequence] = (keys, values)
            outputs.append(causal_attention(queries, keys, values))
        return torch.cat(outputs)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of a sequence's last tokens: q [t, heads, d] over k, v [n, kv_heads, d], n >= t."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("thd,nhd->htn", q, k).float() * q.shape[2] ** -0.5
    num_past = k.shape[0] - q.shape[0]
    future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu_(num_past + 1)
    weights = scores.masked_fill_(future, float("-inf")).softmax(dim=-1).to(v.dtype)
    return torch.einsum("htn,nhd->thd", weights, v)
