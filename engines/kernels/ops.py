"""The operations on the KV cache, on whichever device their tensors are.

Head sizes 64, 80, 96, 128, 256; float32 and bfloat16 on a CPU, also float16 on CUDA. Every
operation writes into its arguments and returns nothing. Wrong shapes, types or sizes raise
RuntimeError naming the values.
"""

from __future__ import annotations

from torch import Tensor

from engines.kernels.interface import ContiguousContext, NewTokens, PagedContext
from engines.kernels.library import load_kernels

__all__ = ["ContiguousContext", "NewTokens", "PagedContext"]


def paged_attention(out: Tensor, query: Tensor, context: PagedContext, *, scale: float) -> None:
    """Attend with one query per sequence to its cached context (paper, section 4.1).

    out and query: [num_seqs, num_heads, head_size]; rows may be strided, as in a view of a fused
    projection. out is written, with zeros where a context is empty. scale: factor on the scores.
    """
    load_kernels(query.device.type).paged_attention(out, query, context, scale)


def contiguous_attention(
    out: Tensor, query: Tensor, context: ContiguousContext, *, scale: float
) -> None:
    """Attend as `paged_attention`, to caches without blocks (FasterTransformer's; Figure 18a).

    Writing such a cache is `write_kv` with slot = sequence * max_len + position.
    """
    load_kernels(query.device.type).contiguous_attention(out, query, context, scale)


def prefix_attention(
    out: Tensor, query: Tensor, context: PagedContext, new: NewTokens, *, scale: float
) -> None:
    """Attend causally with the last tokens of every context (paper, section 4.4).

    out and query: [num_new_tokens, num_heads, head_size], as `paged_attention`'s. The new tokens'
    keys and values are in the cache already. An empty prefix is a plain prompt.
    """
    load_kernels(query.device.type).prefix_attention(out, query, context, new, scale)


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, *, slots: Tensor
) -> None:
    """Write new keys and values [num_tokens, num_kv_heads, head_size] into their blocks.

    slots: int64 [num_tokens], block * block_size + offset; negative: the token is skipped.
    Rows of key and value may be strided.
    """
    load_kernels(key.device.type).write_kv(key, value, key_cache, value_cache, slots)


def copy_blocks(caches: list[Tensor], pairs: Tensor) -> None:
    """Copy blocks within every cache, for copy-on-write (paper, section 4.4).

    caches: tensors of one shape and type, blocks first. pairs: int64 [n, 2] in host memory,
    (from, to), applied as if one after another.
    """
    load_kernels(caches[0].device.type).copy_blocks(caches, pairs)


def swap_out(caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor) -> None:
    """Copy blocks of every cache to host memory (paper, section 4.5).

    Args:
        caches: tensors of one shape and type, blocks first.
        host_pool: [num_host_blocks, elements of one block of all caches], pinned for CUDA; written.
        staging: [n, as host_pool] on the caches' device, scratch; with n = 0, every block of every
            cache is a transfer of its own.
        pairs: int64 [n, 2] in host memory, (device block, host block).

    On CUDA the copy is only ordered on the current stream: synchronise before reading host_pool.

    """
    load_kernels(caches[0].device.type).swap_out(caches, host_pool, staging, pairs)


def swap_in(caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor) -> None:
    """Copy blocks back, the reverse of `swap_out`; pairs are (host block, device block)."""
    load_kernels(caches[0].device.type).swap_in(caches, host_pool, staging, pairs)
