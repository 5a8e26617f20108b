"""What a device's kernels are called with, and the operations that each device provides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


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


class Kernels(Protocol):
    """The operations of one device; `engines.kernels.ops` says what each does."""

    compiled: bool

    def paged_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, scale: float
    ) -> None:
        """See `ops.paged_attention`."""

    def contiguous_attention(
        self, out: Tensor, query: Tensor, context: ContiguousContext, scale: float
    ) -> None:
        """See `ops.contiguous_attention`."""

    def prefix_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, new: NewTokens, scale: float
    ) -> None:
        """See `ops.prefix_attention`."""

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
    ) -> None:
        """See `ops.write_kv`."""

    def copy_blocks(self, caches: list[Tensor], pairs: Tensor) -> None:
        """See `ops.copy_blocks`."""

    def swap_out(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """See `ops.swap_out`."""

    def swap_in(
        self, caches: list[Tensor], host_pool: Tensor, staging: Tensor, pairs: Tensor
    ) -> None:
        """See `ops.swap_in`."""
