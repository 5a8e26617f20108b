"""The KV cache in memory, laid out as each system's manager hands it out.

- Astra: blocks of `block_size` slots; a row's table lists its blocks (paper, section 4.1).
- Orca: every head's slots lie in one array, so that a buddy chunk, wherever it starts, is a
  contiguous stretch of keys (or values) for each head, as in the original's contiguous cache. The
  paged kernels read it through overlapping blocks, one beginning at every slot: a row's table holds
  start, start + 64, ..., so no block is shared by two chunks and chunks need no alignment.
- FasterTransformer: a rectangle [rows, heads, row length] for each batch, padded on the left. A
  row is one block.

All layers' keys and values are one tensor, so that copies between slots are one operation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Batch, Copy, Swap
from engines.core.config import EngineConfig, System
from engines.core.request import Sequence as Output
from engines.execution.transfer import send_all
from engines.kernels.interface import ContiguousContext, Kernels, PagedContext
from engines.kernels.swap import SwapSpace
from engines.models.interfaces import Model

ORCA_BLOCK = 64  # slots that a kernel reads at a time from a contiguous chunk


@dataclass(frozen=True)
class CacheShape:
    """What a slot holds: keys and values of `kv_heads` heads in each layer."""

    num_layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device
    memory: Tensor | None = None  # [elements], which caches are to share; None: each has its own

    @classmethod
    def of(cls, model: Model) -> CacheShape:
        """What a model, or a rank's slice of it, keeps."""
        spec = model.spec
        return cls(spec.num_layers, model.num_kv_heads, spec.head_size, model.dtype, model.device)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot over all layers."""
        return 2 * self.num_layers * self.kv_heads * self.head_size * self.dtype.itemsize

    def allocate(self, *slots: int) -> Tensor:
        """Memory [2 * num_layers, *slots] as it is: keys, then values of each layer."""
        size = (2 * self.num_layers, *slots)
        if self.memory is not None:
            return self.memory[: math.prod(size)].view(size)
        return torch.empty(size, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class RowView:
    """The rows that attend in a step, on the device."""

    tables: Tensor  # int32 [rows, table width]
    context_lens: Tensor  # int32 [rows]
    max_context_len: int
    start_offsets: Tensor | None = None  # int32 [rows]; None: no padding


class KVCache(ABC):
    """Memory for keys and values that is read through tables of blocks.

    `layers` are each layer's keys, then its values, as [blocks, kv_heads, block_size, head_size];
    block b begins at slot `stride` * b. Slots are written to `writable`, the same memory. `memory`
    is all of it as one tensor.
    """

    pads_prompts = False  # whether prompts hold padding, which only dense attention can leave out
    version = 0  # changes whenever the memory is divided anew
    table_width: int
    block_size: int
    stride: int
    memory: Tensor
    layers: Sequence[Tensor]
    writable: Sequence[Tensor]

    def __init__(self, shape: CacheShape, kernels: Kernels) -> None:
        self._shape = shape
        self._kernels = kernels
        self._scale = shape.head_size**-0.5

    def begin_batch(self, batch: Batch) -> None:  # noqa: B027 - most caches need not
        """Learn of a step with prompts before its sequences are placed."""

    @abstractmethod
    def fill_table(self, table: NDArray[np.int32], sequence: Output) -> None:
        """Write a sequence's place into its row of the tables."""

    def slots(self, rows: RowView) -> Tensor:
        """Slot of the last token of each row's context, int64 [rows]; -1 for an empty one."""
        place = (rows.context_lens - 1).long()
        index = (place // self.block_size).clamp_(min=0)
        block = rows.tables.gather(1, index.unsqueeze(1)).squeeze(1)
        slots = block * self.stride + place % self.block_size
        return slots.masked_fill_(place < 0, -1)

    def prompt_slots(
        self, table: NDArray[np.int32], places: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Slots of a row's tokens at the given places of its context."""
        blocks = table[places // self.block_size].astype(np.int64)
        return blocks * self.stride + places % self.block_size

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor) -> None:
        """Write new keys and values [tokens, kv_heads, head_size] into their slots."""
        keys, values = self.writable[2 * layer], self.writable[2 * layer + 1]
        self._kernels.write_kv(key, value, keys, values, slots)

    def locate(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """What `gather` takes: block and offset of each of the slots int64 [tokens]."""
        size = self.writable[0].shape[2]
        return slots // size, slots % size

    def gather(self, layer: int, places: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values [tokens, kv_heads, head_size] from their places."""
        block, offset = places
        keys, values = self.writable[2 * layer], self.writable[2 * layer + 1]
        return keys[block, :, offset], values[block, :, offset]

    def context(self, layer: int, rows: RowView) -> PagedContext:
        """What a kernel reads of the rows."""
        keys, values = self.layers[2 * layer], self.layers[2 * layer + 1]
        return PagedContext(keys, values, rows.tables, rows.context_lens, rows.max_context_len)

    def attend(self, layer: int, out: Tensor, query: Tensor, rows: RowView) -> None:
        """Attend with one query per row to its whole context."""
        self._kernels.paged_attention(out, query, self.context(layer, rows), self._scale)

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy slots as a manager asks."""
        assert not copies, "this system copies nothing"

    def swap_out(self, swaps: Sequence[Swap]) -> None:
        """Move blocks to the host."""
        assert not swaps, "this system swaps nothing"

    def swap_in(self, swaps: Sequence[Swap]) -> None:
        """Move blocks back."""
        assert not swaps, "this system swaps nothing"

    def continue_rows(  # noqa: B027 - only where no manager copies
        self, targets: Sequence[int], sources: Sequence[int]
    ) -> None:
        """Let rows continue others' contexts where no manager will ask for it."""


class PagedCache(KVCache):
    """Astra's blocks, with swap space in host memory."""

    def __init__(self, shape: CacheShape, config: EngineConfig, kernels: Kernels) -> None:
        super().__init__(shape, kernels)
        self.block_size = self.stride = size = config.block_size
        self.table_width = -(-config.max_model_len // size)
        self.memory = shape.allocate(config.num_blocks, shape.kv_heads, size, shape.head_size)
        self.layers = self.writable = layers = list(self.memory.unbind())
        # Now: pinning memory takes long and would be part of the step that swaps first.
        self._swap_space = SwapSpace(kernels, layers, config.num_swap_blocks)

    def fill_table(self, table: NDArray[np.int32], sequence: Output) -> None:
        """List the blocks."""
        table[: sequence.num_blocks] = sequence.table

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy whole blocks, in the order given."""
        if copies:
            size = self.block_size
            pairs = [(c.source_slot // size, c.target_slot // size) for c in copies]
            self._kernels.copy_blocks(list(self.layers), torch.tensor(pairs))

    def swap_out(self, swaps: Sequence[Swap]) -> None:
        """Move blocks to the host."""
        if swaps:
            self._swap_space.swap_out(torch.tensor(swaps))

    def swap_in(self, swaps: Sequence[Swap]) -> None:
        """Move blocks back."""
        if swaps:
            self._swap_space.swap_in(torch.tensor(swaps))


class ChunkCache(KVCache):
    """Orca's contiguous chunks of slots. For the kernel that writes, all slots are one block."""

    block_size, stride = ORCA_BLOCK, 1

    def __init__(self, shape: CacheShape, config: EngineConfig, kernels: Kernels) -> None:
        super().__init__(shape, kernels)
        self.table_width = -(-config.max_model_len // ORCA_BLOCK)
        heads, size = shape.kv_heads, shape.head_size
        num_slots = config.num_slots + ORCA_BLOCK  # the last chunk's last block reaches beyond
        self._last_start = config.num_slots
        self.memory = shape.allocate(1, heads, num_slots, size)
        self.writable = self.memory.unbind()
        blocks = (config.num_slots + 1, heads, ORCA_BLOCK, size)
        strides = (size, num_slots * size, size, 1)
        self.layers = [memory.as_strided(blocks, strides) for memory in self.writable]

    def fill_table(self, table: NDArray[np.int32], sequence: Output) -> None:
        """List where the chunk's blocks begin; what lies beyond the cache is never read."""
        starts = sequence.blocks[0] + ORCA_BLOCK * np.arange(len(table))
        table[:] = np.minimum(starts, self._last_start)

    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy the caches of beams."""
        for source, target, count in copies:
            copied = self.memory[..., source : source + count, :]
            self.memory[..., target : target + count, :] = copied


class PaddedCache(KVCache):
    """FasterTransformer's rectangle, of which row i is the batch's row i.

    A beam that continues another gets a copy of its row. (FasterTransformer redirects reads
    instead, which costs each later step what the copy costs once.)
    """

    pads_prompts = True
    table_width = 1

    def __init__(self, shape: CacheShape, config: EngineConfig, kernels: Kernels) -> None:
        super().__init__(shape, kernels)
        self.memory = shape.allocate(config.num_slots * shape.kv_heads * shape.head_size)

    def begin_batch(self, batch: Batch) -> None:
        """See the memory as a row for each sequence, with room for the longest output."""
        heads, size = self._shape.kv_heads, self._shape.head_size
        longest = max(prompt.group.request.output_len for prompt in batch.prompts)
        self.block_size = self.stride = row_len = batch.prompts[0].num_tokens + longest
        used = self.memory[:, : batch.num_seqs * row_len * heads * size]
        self._rows = used.view(-1, batch.num_seqs, heads, row_len, size)
        self.version += 1
        self.layers = self.writable = self._rows.unbind()

    def fill_table(self, table: NDArray[np.int32], sequence: Output) -> None:
        """Note the row, of which the manager gives the first slot."""
        table[0] = sequence.blocks[0] // self.block_size

    def attend(self, layer: int, out: Tensor, query: Tensor, rows: RowView) -> None:
        """See `KVCache.attend`."""
        keys, values = self.layers[2 * layer], self.layers[2 * layer + 1]
        lens, starts = rows.context_lens, rows.start_offsets
        context = ContiguousContext(keys, values, lens, rows.max_context_len, starts)
        self._kernels.contiguous_attention(out, query, context, self._scale)

    def continue_rows(self, targets: Sequence[int], sources: Sequence[int]) -> None:
        """Copy rows; none is both a source and a target."""
        to, origin = send_all((np.array(targets), np.array(sources)), self._rows.device)
        self._rows[:, to] = self._rows[:, origin]


def create_cache(shape: CacheShape, config: EngineConfig, kernels: Kernels) -> KVCache:
    """Allocate the cache of the configured system."""
    match config.system:
        case System.ASTRA:
            return PagedCache(shape, config, kernels)
        case System.FT:
            return PaddedCache(shape, config, kernels)
        case _:
            return ChunkCache(shape, config, kernels)
