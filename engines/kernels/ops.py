"""The operations on the KV cache, on whichever device their tensors are.

A cache is [num_blocks, num_kv_heads, block_size, head_size], one tensor for keys and one for
values per layer. Block sizes 1 to 256; head sizes 64, 80, 96, 128, 256; float32 and bfloat16 on a
CPU, also float16 on CUDA. Every operation writes into its arguments and returns nothing. Wrong
shapes, types or sizes raise RuntimeError naming the values.
"""

from __future__ import annotations

from torch import Tensor

from engines.kernels.library import load_kernels


def paged_attention(
    out: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    block_tables: Tensor,
    context_lens: Tensor,
    scale: float,
    max_context_len: int,
) -> None:
    """Attend with one query per sequence to its cached context (paper, section 4.1).

    Args:
        out: [num_seqs, num_heads, head_size], written; zeros where a context is empty.
        query: as `out`; rows may be strided, as in a view of a fused projection.
        key_cache: the layer's keys.
        value_cache: the layer's values.
        block_tables: int32 [num_seqs, max_blocks]; rows may be strided.
        context_lens: int32 [num_seqs], tokens in the cache, the query's own among them.
        scale: factor on the scores.
        max_context_len: a bound on context_lens (CUDA: only steers how contexts are split).

    """
    load_kernels(query.device.type).paged_attention(
        *(out, query, key_cache, value_cache, block_tables, context_lens, scale, max_context_len)
    )


def contiguous_attention(
    out: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    context_lens: Tensor,
    scale: float,
    max_context_len: int,
    start_offsets: Tensor | None = None,
) -> None:
    """Attend as `paged_attention`, to caches [num_seqs, num_kv_heads, max_len, head_size].

    Sequence i attends to slots start_offsets[i] (0 without; int32, left padding) up to
    context_lens[i]. Writing such a cache is `write_kv` with slot = sequence * max_len + position.
    """
    load_kernels(query.device.type).contiguous_attention(
        *(out, query, key_cache, value_cache, start_offsets, context_lens, scale, max_context_len)
    )


def prefix_attention(
    out: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    *,
    block_tables: Tensor,
    context_lens: Tensor,
    query_starts: Tensor,
    scale: float,
    max_query_len: int,
    max_context_len: int,
) -> None:
    """Attend causally with the last tokens of every context, packed without padding.

    Rows query_starts[i] to query_starts[i + 1] (int32 [num_seqs + 1]) of query and out are the
    last tokens of sequence i's context, whose keys and values are in the cache already. Used for
    prompts with a cached prefix (paper, section 4.4); an empty prefix is a plain prompt.
    """
    load_kernels(query.device.type).prefix_attention(
        *(out, query, key_cache, value_cache, block_tables, context_lens, query_starts, scale),
        *(max_query_len, max_context_len),
    )


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, *, slot_mapping: Tensor
) -> None:
    """Write new keys and values [num_tokens, num_kv_heads, head_size] into their blocks.

    slot_mapping: int64 [num_tokens], block * block_size + offset; negative: the token is skipped.
    Rows of key and value may be strided.
    """
    load_kernels(key.device.type).write_kv(key, value, key_cache, value_cache, slot_mapping)


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
