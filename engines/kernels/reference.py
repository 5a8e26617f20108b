"""Each operation in plain PyTorch: what the kernels must compute, and the fallback without them.

Shapes and meanings are those of `interface.Kernels`. Attention computes in the wider of the
query's type and float32, so float64 tensors give a float64 reference.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engines.kernels.interface import ContiguousContext, Kernels, NewTokens, PagedContext


def _attend(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attend causally: the queries [q, heads, size] are the last of the tokens.

    keys and values are [kv_heads, tokens, size]; returns [q, heads, size].
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    group = query.shape[1] // keys.shape[0]
    keys = keys.to(wide).repeat_interleave(group, 0)
    values = values.to(wide).repeat_interleave(group, 0)
    scores = torch.einsum("qhd,htd->hqt", query.to(wide), keys) * scale
    num_queries, num_tokens = scores.shape[1:]
    visible = torch.ones(num_queries, num_tokens, dtype=torch.bool, device=query.device)
    hidden = ~visible.tril(num_tokens - num_queries)
    weights = torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1)
    return torch.einsum("hqt,htd->qhd", weights, values)


def _gather(cache: Tensor, table: Tensor, length: int) -> Tensor:
    """Return a sequence's first `length` rows [kv_heads, length, size] from its blocks."""
    num_blocks = -(-length // cache.shape[2])
    blocks = cache[table[:num_blocks].long()]
    return blocks.transpose(0, 1).flatten(1, 2)[:, :length]


class ReferenceKernels(Kernels):
    """The operations in plain PyTorch, for tensors on any device."""

    compiled = False

    def __init__(self) -> None:
        super().__init__({})

    def paged_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, scale: float
    ) -> None:
        """See `Kernels.paged_attention`."""
        starts = torch.arange(len(context.context_lens) + 1, dtype=torch.int32)
        self.prefix_attention(out, query, context, NewTokens(starts, 1), scale)

    def contiguous_attention(
        self, out: Tensor, query: Tensor, context: ContiguousContext, scale: float
    ) -> None:
        """See `Kernels.contiguous_attention`."""
        ends = context.context_lens.tolist()
        offsets = context.start_offsets
        starts = [0] * len(ends) if offsets is None else offsets.tolist()
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end <= start:
                out[i] = 0
                continue
            keys, values = context.key_cache[i, :, start:end], context.value_cache[i, :, start:end]
            out[i] = _attend(query[i : i + 1], keys, values, scale)[0].to(out.dtype)

    def prefix_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, new: NewTokens, scale: float
    ) -> None:
        """See `Kernels.prefix_attention`; here a query with an empty context yields zeros."""
        starts = new.starts.tolist()
        for i, length in enumerate(context.context_lens.tolist()):
            rows = slice(starts[i], starts[i + 1])
            if length == 0:
                out[rows] = 0
                continue
            keys = _gather(context.key_cache, context.block_tables[i], length)
            values = _gather(context.value_cache, context.block_tables[i], length)
            out[rows] = _attend(query[rows], keys, values, scale).to(out.dtype)

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
    ) -> None:
        """See `Kernels.write_kv`."""
        kept = slots >= 0
        block_size = key_cache.shape[2]
        block, offset = slots[kept] // block_size, slots[kept] % block_size
        key_cache[block, :, offset] = key[kept]
        value_cache[block, :, offset] = value[kept]

    def add_norm(
        self,
        out: Tensor,
        residual: Tensor,
        delta: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
    ) -> None:
        """See `Kernels.add_norm`."""
        residual.add_(delta)
        if bias is None:
            out.copy_(functional.rms_norm(residual, weight.shape, weight, eps))
        else:
            out.copy_(functional.layer_norm(residual, weight.shape, weight, bias, eps))

    def gate(self, out: Tensor, fused: Tensor) -> None:
        """See `Kernels.gate`."""
        gate, up = fused.chunk(2, dim=-1)
        torch.mul(functional.silu(gate), up, out=out)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """See `Kernels.rotate`."""
        first, second = heads.chunk(2, dim=-1)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        crossed = first * sin
        first.mul_(cos).addcmul_(second, sin, value=-1)
        second.mul_(cos).add_(crossed)

    def copy_blocks(self, caches: list[Tensor], pairs: Tensor) -> None:
        """See `Kernels.copy_blocks`."""
        for source, target in pairs.tolist():
            for cache in caches:
                cache[target] = cache[source]

    def swap_out(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """See `Kernels.swap_out`."""
        for block, row in pairs.tolist():
            host_pool[row] = torch.cat([cache[block].flatten() for cache in caches]).cpu()

    def swap_in(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """See `Kernels.swap_in`."""
        for row, block in pairs.tolist():
            parts = host_pool[row].chunk(len(caches))
            for cache, part in zip(caches, parts, strict=True):
                cache[block] = part.view(cache.shape[1:]).to(cache.device)
