"""The operations on the KV cache, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

OPERATIONS = (
    *("paged_attention", "contiguous_attention", "prefix_attention"),
    *("write_kv", "add_norm", "gate", "rotate", "copy_blocks", "swap_out", "swap_in"),
)


@dataclass(frozen=True, slots=True)
class PagedContext:
    """One layer's cached keys and values of a batch, in blocks (paper, section 4.1).

    Attributes:
        key_cache: [num_blocks, num_kv_heads, block_size, head_size]; block sizes 1 to 256.
        value_cache: as key_cache.
        block_tables: int32 [num_seqs, max_blocks]; rows may be strided.
        context_lens: int32 [num_seqs], tokens in the cache, the queries' own among them.
        max_context_len: a bound on context_lens (CUDA: it only steers how contexts are split).

    """

    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    max_context_len: int


@dataclass(frozen=True, slots=True)
class ContiguousContext:
    """One layer's cached keys and values of a batch, a stretch of slots per sequence.

    Attributes:
        key_cache: [num_seqs, num_kv_heads, max_len, head_size].
        value_cache: as key_cache.
        context_lens: int32 [num_seqs], the slots from 0 to the end of the context.
        max_context_len: a bound on context_lens.
        start_offsets: int32 [num_seqs], the first slot that counts (left padding); None: 0.

    """

    key_cache: Tensor
    value_cache: Tensor
    context_lens: Tensor
    max_context_len: int
    start_offsets: Tensor | None = None


@dataclass(frozen=True, slots=True)
class NewTokens:
    """Which rows of the queries are whose: the last tokens of every context, without padding.

    Attributes:
        starts: int32 [num_seqs + 1]; sequence i has rows starts[i] to starts[i + 1].
        max_len: a bound on the number of rows of a sequence.

    """

    starts: Tensor
    max_len: int


class Kernels:
    """The operations of one device's compiled library; `reference` has them in plain PyTorch.

    Head sizes 64, 80, 96, 128, 256; float32 and bfloat16 on a CPU, also float16 on CUDA. Every
    operation writes into its arguments and returns nothing. Wrong shapes, types or sizes raise
    RuntimeError naming the values.
    """

    compiled = True

    def __init__(self, operations: Mapping[str, Callable[..., None]]) -> None:
        """operations: those of OPERATIONS, called with the arguments of csrc's schemas."""
        self.operations = operations

    def paged_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, scale: float
    ) -> None:
        """Attend with one query per sequence to its cached context (paper, section 4.1).

        out and query: [num_seqs, num_heads, head_size]; rows may be strided, as in a view of a
        fused projection. out is written, with zeros where a context is empty. scale: factor on
        the scores.
        """
        c = context
        self.operations["paged_attention"](
            *(out, query, c.key_cache, c.value_cache, c.block_tables, c.context_lens),
            *(scale, c.max_context_len),
        )

    def contiguous_attention(
        self, out: Tensor, query: Tensor, context: ContiguousContext, scale: float
    ) -> None:
        """Attend as `paged_attention`, to caches without blocks (FasterTransformer's; Figure 18a).

        Writing such a cache is `write_kv` with slot = sequence * max_len + position.
        """
        c = context
        self.operations["contiguous_attention"](
            *(out, query, c.key_cache, c.value_cache, c.start_offsets, c.context_lens),
            *(scale, c.max_context_len),
        )

    def prefix_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, new: NewTokens, scale: float
    ) -> None:
        """Attend causally with the last tokens of every context (paper, section 4.4).

        out and query: [num_new_tokens, num_heads, head_size], as `paged_attention`'s. The new
        tokens' keys and values are in the cache already. An empty prefix is a plain prompt.
        """
        c = context
        self.operations["prefix_attention"](
            *(out, query, c.key_cache, c.value_cache, c.block_tables, c.context_lens),
            *(new.starts, scale, new.max_len, c.max_context_len),
        )

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
    ) -> None:
        """Write new keys and values [num_tokens, num_kv_heads, head_size] into their blocks.

        slots: int64 [num_tokens], block * block_size + offset; negative: the token is skipped.
        Rows of key and value may be strided.
        """
        self.operations["write_kv"](key, value, key_cache, value_cache, slots)

    def add_norm(
        self,
        out: Tensor,
        residual: Tensor,
        delta: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
    ) -> None:
        """Add delta to residual and write the normalised sum to out, all [num_rows, width].

        LayerNorm with a bias [width], RMSNorm without. The sum is rounded to the tensors' type
        before it is normalised in float32. A row must be a multiple of 16 bytes.
        """
        self.operations["add_norm"](out, residual, delta, weight, bias, eps)

    def gate(self, out: Tensor, fused: Tensor) -> None:
        """Write silu(first half) * second half of each row of `fused` to `out`.

        out: [num_rows, width]; fused: [num_rows, 2 * width]. A row of out must be a multiple of 16
        bytes.
        """
        self.operations["gate"](out, fused)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate elements i and size / 2 + i of every head by angle i of its row, in place.

        heads: [num_rows, num_heads, size], rows may be strided; cos and sin: [num_rows, size / 2],
        of the same type. A row of cos must be a multiple of 16 bytes.
        """
        self.operations["rotate"](heads, cos, sin)

    def copy_blocks(self, caches: list[Tensor], pairs: Tensor) -> None:
        """Copy blocks within every cache, for copy-on-write (paper, section 4.4).

        caches: tensors of one shape and type, blocks first. pairs: int64 [n, 2] in host memory,
        (from, to), applied as if one after another.
        """
        self.operations["copy_blocks"](caches, pairs)

    def swap_out(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """Copy blocks of every cache to host memory (paper, section 4.5).

        Args:
            caches: tensors of one shape and type, blocks first.
            host_pool: [num_host_blocks, elements of one block of all caches], pinned for CUDA;
                written.
            staging: [n, as host_pool] on the caches' device, scratch; with n = 0, every block of
                every cache is a transfer of its own.
            pairs: int64 [n, 2] in host memory, (device block, host block).

        On CUDA the copy is only ordered on the current stream: synchronise before reading
        host_pool.

        """
        self.operations["swap_out"](caches, host_pool, staging, pairs)

    def swap_in(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """Copy blocks back, the reverse of `swap_out`; pairs are (host block, device block)."""
        self.operations["swap_in"](caches, host_pool, staging, pairs)
