"""Paged KV cache (paper, sections 4.2-4.5): block tables, copy-on-write, swapping, prefixes."""

from __future__ import annotations

from collections.abc import Hashable

from engines.astra.block_pool import BlockPool
from engines.core.batch import Batch, Copy, Swap
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, Sequence, SequenceGroup, Status


class BlockManager:
    """Gives sequences their blocks, one at a time as they grow.

    With `share_prefix`, the first request that names a prefix registers it: the cache keeps one
    reference to each of its whole blocks forever (section 4.4). Later requests with the same prefix
    map these blocks, compute only the rest, and never write or swap them.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.block_size = config.block_size
        self.num_slots = config.num_slots
        self.pool = BlockPool(config.num_blocks)
        self.swap_pool = BlockPool(config.num_swap_blocks)
        self.watermark = int(config.watermark * config.num_blocks)
        self._share_prefix = config.share_prefix
        self._prefixes: dict[Hashable, list[int]] = {}
        self._tables: set[Sequence] = set()  # sequences that hold blocks, on either side
        self._entries = 0  # table entries of running sequences

    def check_request(self, request: Request) -> None:
        """Raise UserError unless the request fits alone, unshared, with the watermark.

        It also needs one spare block per sequence, which `can_append` requires.
        """
        n = request.sampling.n
        shared = request.prompt_len // self.block_size
        own = self.num_blocks_for(request.prompt_len + request.output_len - 1) - shared
        others = self.num_prefix_blocks - len(self._prefix_of(request))
        needed = others + shared + n * (own + 1) + self.watermark
        if needed > self.pool.num_blocks:
            raise UserError(
                f"request {request.request_id} may need {needed} blocks of {self.block_size} "
                f"tokens but the KV cache has {self.pool.num_blocks}: raise --kv-slots"
            )

    @property
    def num_prefix_blocks(self) -> int:
        """Blocks that registered prefixes keep forever."""
        return sum(len(blocks) for blocks in self._prefixes.values())

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens`."""
        return -(-num_tokens // self.block_size)

    def can_admit(self, group: SequenceGroup, num_tokens: int) -> bool:
        """Whether the prompt's blocks are free and leave the watermark free."""
        needed = self.num_blocks_for(num_tokens) - len(self._prefix_of(group.request))
        return self.pool.num_free - needed >= self.watermark

    def admit(self, group: SequenceGroup, num_tokens: int) -> int:
        """Map the prompt once for all the group's sequences; returns the cached prefix length."""
        sequences = group.running
        prefix = self._prefix_of(group.request)
        self.pool.share_all(prefix, len(sequences))
        own = self.num_blocks_for(num_tokens) - len(prefix)
        table = prefix + self.pool.allocate_many(own, len(sequences))
        for sequence in sequences:
            sequence.blocks = table.copy()
        self._tables.update(sequences)
        self._entries += len(table) * len(sequences)
        if self._share_prefix and group.request.prefix_len and not prefix:
            self._register_prefix(group.request, table)
        return len(prefix) * self.block_size

    def can_append(self, group: SequenceGroup) -> bool:
        """Whether there is a free block for each running sequence (the original's heuristic)."""
        return len(group.running) <= self.pool.num_free

    def append(self, group: SequenceGroup, context_len: int, batch: Batch) -> None:
        """Make the slot of token `context_len - 1` writable in every running sequence."""
        if (context_len - 1) % self.block_size:
            self.unshare(group, batch)
        else:
            self.grow(group.running, batch)

    def grow(self, sequences: list[Sequence], batch: Batch) -> None:
        """Give one more block to each of the sequences, whose blocks are full."""
        blocks = self.pool.allocate_many(len(sequences))
        for sequence, block in zip(sequences, blocks, strict=True):
            sequence.blocks.append(block)
        self._entries += len(sequences)
        batch.changed.extend(sequences)

    def unshare(self, group: SequenceGroup, batch: Batch) -> None:
        """Copy the last, partly filled block for all but one of the sequences that share it."""
        pool, size = self.pool, self.block_size
        for sequence in group.running:
            source = sequence.blocks[-1]
            target = pool.unshare(source)
            if target != source:
                sequence.blocks[-1] = target
                batch.copies.append(Copy(source * size, target * size, size))  # whole blocks
                batch.changed.append(sequence)

    def free(self, sequence: Sequence) -> None:
        """Drop a running sequence's references."""
        self.pool.release_all(sequence.blocks)
        self._entries -= len(sequence.blocks)
        sequence.blocks = []
        self._tables.discard(sequence)

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Replace the blocks of beams that ended by those of their surviving parents."""
        pool, running = self.pool, group.running
        for place, parent in enumerate(parents):
            if parent == place:
                continue
            assert parents[parent] == parent, f"beam {parent} is continued but did not survive"
            own, others = running[place].blocks, running[parent].blocks
            index = len(own) - 1
            while index >= 0 and own[index] != others[index]:  # equal before this
                pool.share(others[index])
                pool.release(own[index])
                own[index] = others[index]
                index -= 1
            batch.forked.append(running[place])

    def swap_out(self, group: SequenceGroup, batch: Batch) -> None:
        """Move a group's own blocks to the CPU pool; its sequences still share them there.

        Raises UserError if the pool has too few free blocks.
        """
        if not self.can_swap_out(group):
            raise UserError(
                f"preempting request {group.request.request_id} needs "
                f"{len(self._own_blocks(group))} swap blocks but {self.swap_pool.num_free} "
                "are free: raise --swap-space or lower the request rate"
            )
        self._entries -= sum(len(s.blocks) for s in group.running)
        pairs = self._move(group, self.pool, self.swap_pool)
        batch.swap_out.extend(pairs)

    def can_swap_out(self, group: SequenceGroup) -> bool:
        """Whether the CPU pool has room for a group's own blocks."""
        return len(self._own_blocks(group)) <= self.swap_pool.num_free

    def can_swap_in(self, group: SequenceGroup) -> bool:
        """Whether a swapped group fits with one more block per sequence and the watermark."""
        needed = len(self._own_blocks(group)) + len(group.running)
        return self.pool.num_free - needed >= self.watermark

    def swap_in(self, group: SequenceGroup, batch: Batch) -> None:
        """Move a group's blocks back to the device."""
        pairs = self._move(group, self.swap_pool, self.pool)
        batch.swap_in.extend(pairs)
        self._entries += sum(len(s.blocks) for s in group.running)

    def usage(self, batch: Batch) -> KVUsage:
        """Slots by use. All blocks but a sequence's last are full. The last block is still shared
        within a group admitted in this step; elsewhere copy-on-write has separated them."""
        blocks = self.pool.num_used
        unfilled = self._entries * self.block_size - batch.context_tokens
        for prompt in batch.prompts:
            extra = len(prompt.group.running) - 1
            if extra:
                unfilled -= extra * (-prompt.num_tokens % self.block_size)
        used = blocks * self.block_size
        return KVUsage(used - unfilled, 0, unfilled, used, blocks, self._entries)

    def check_integrity(self) -> None:
        """Assert that both pools' reference counts equal the table entries and no block is lost."""
        device: list[list[int]] = list(self._prefixes.values())
        swapped: list[list[int]] = []
        for sequence in self._tables:
            shared = len(self._prefix_of(sequence.group.request))
            if sequence.group.status is Status.SWAPPED:
                device.append(sequence.blocks[:shared])
                swapped.append(sequence.blocks[shared:])
            else:
                device.append(sequence.blocks)
        self.pool.check_integrity(device)
        self.swap_pool.check_integrity(swapped)
        running = [s for s in self._tables if s.group.status is not Status.SWAPPED]
        assert self._entries == sum(len(s.blocks) for s in running), "table entries miscounted"

    def _register_prefix(self, request: Request, table: list[int]) -> None:
        prefix = table[: self._prefix_blocks(request)]
        self.pool.share_all(prefix)
        self._prefixes[self._prefix_key(request)] = prefix

    def _prefix_blocks(self, request: Request) -> int:
        """Whole blocks of the prefix; at least one prompt token is left to compute."""
        return min(request.prefix_len, request.prompt_len - 1) // self.block_size

    def _prefix_key(self, request: Request) -> Hashable:
        length = self._prefix_blocks(request) * self.block_size
        if request.prompt_token_ids is None:
            return length
        return request.prompt_token_ids[:length]

    def _prefix_of(self, request: Request) -> list[int]:
        if not self._prefixes or not request.prefix_len:
            return []
        return self._prefixes.get(self._prefix_key(request), [])

    def _own_blocks(self, group: SequenceGroup) -> list[int]:
        """A group's distinct blocks without the registered prefix, in table order."""
        shared = len(self._prefix_of(group.request))
        return list(dict.fromkeys(b for s in group.running for b in s.blocks[shared:]))

    def _move(self, group: SequenceGroup, source: BlockPool, target: BlockPool) -> list[Swap]:
        shared = len(self._prefix_of(group.request))
        moved: dict[int, int] = {}
        for sequence in group.running:
            for index in range(shared, len(sequence.blocks)):
                old = sequence.blocks[index]
                if old in moved:
                    target.share(moved[old])
                else:
                    moved[old] = target.allocate()
                source.release(old)
                sequence.blocks[index] = moved[old]
        return [Swap(old, new) for old, new in moved.items()]
