"""Paged KV cache (paper, sections 4.2-4.5): block tables, copy-on-write, swapping, prefixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from engines.astra.block_pool import BlockPool
from engines.core.batch import Batch, Copy, Swap
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, Sequence, SequenceGroup, SharedBlocks, Status


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
        self._prefixes: dict[Hashable, SharedBlocks] = {}
        self._holders: set[Sequence] = set()  # sequences with blocks, on either side
        self._entries = 0  # table entries of running sequences

    def check_request(self, request: Request) -> None:
        """Raise UserError unless the request fits alone, unshared, with the watermark.

        It also needs one spare block per sequence, which `can_append` requires.
        """
        n = request.sampling.n
        shared = request.prompt_len // self.block_size
        own = self.num_blocks_for(request.prompt_len + request.output_len - 1) - shared
        others = self.num_prefix_blocks - self._num_cached(request)
        needed = others + shared + n * (own + 1) + self.watermark
        if needed > self.pool.num_blocks:
            raise UserError(
                f"request {request.request_id} may need {needed} blocks of {self.block_size} "
                f"tokens but the KV cache has {self.pool.num_blocks}: raise --kv-slots"
            )

    @property
    def num_prefix_blocks(self) -> int:
        """Blocks that registered prefixes keep forever."""
        return sum(prefix.end for prefix in self._prefixes.values())

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens`."""
        return -(-num_tokens // self.block_size)

    def can_admit(self, group: SequenceGroup, num_tokens: int) -> bool:
        """Whether the prompt's blocks are free and leave the watermark free."""
        needed = self.num_blocks_for(num_tokens) - self._num_cached(group.request)
        return self.pool.num_free - needed >= self.watermark

    def admit(self, group: SequenceGroup, num_tokens: int) -> int:
        """Map the prompt once for all the group's sequences; returns the cached prefix length."""
        sequences = group.running
        before, cached = self._prefix_of(group.request), self._num_cached(group.request)
        own = self.pool.allocate(self.num_blocks_for(num_tokens) - cached)
        if before is None and self._share_prefix:
            before = self._register_prefix(group.request, own)
        if before is not None:
            before.owners += 1
        if len(sequences) == 1:
            sequences[0].shared, sequences[0].blocks = before, own
        else:
            prompt = SharedBlocks(own, before, len(sequences))
            for sequence in sequences:
                sequence.shared = prompt
        self._holders.update(sequences)
        self._entries += sequences[0].num_blocks * len(sequences)
        return cached * self.block_size

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
        blocks = self.pool.allocate(len(sequences))
        for sequence, block in zip(sequences, blocks, strict=True):
            sequence.blocks.append(block)
        self._entries += len(sequences)
        batch.changed.extend(sequences)

    def unshare(self, group: SequenceGroup, batch: Batch) -> None:
        """Copy the last, partly filled block for all but one of the sequences that share it.

        Whoever shares it has no block of its own yet: all of a group grow in the same step.
        """
        size = self.block_size
        sources: dict[SharedBlocks, int] = {}
        for sequence in reversed(group.running):
            shared = sequence.shared
            if sequence.blocks or shared is None:
                continue
            source = sources.get(shared)
            if source is None:
                source = sources[shared] = self._take_last(shared)
                sequence.blocks = [source]
            else:
                sequence.blocks = self.pool.allocate(1)
                target = sequence.blocks[0]
                batch.copies.append(Copy(source * size, target * size, size))  # whole blocks
                batch.changed.append(sequence)
            if not shared.blocks:
                sequence.shared = shared.before

    @staticmethod
    def _take_last(shared: SharedBlocks) -> int:
        """Take the last block out of a part; of one left empty, the owners pass to `before`."""
        if len(shared.blocks) == 1 and shared.before is not None:
            shared.before.owners += shared.owners - 1
        shared.end -= 1
        return shared.blocks.pop()

    def free(self, sequence: Sequence) -> None:
        """Let go of a running sequence's blocks."""
        self._entries -= sequence.num_blocks
        self._let_go(sequence)
        sequence.shared, sequence.blocks = None, []
        self._holders.discard(sequence)

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Let beams that ended share all blocks of their surviving parents.

        A parent's own blocks become shared ones as a whole, so this costs what differs.
        """
        running = group.running
        for place, parent in enumerate(parents):
            if parent == place:
                continue
            assert parents[parent] == parent, f"beam {parent} is continued but did not survive"
            source, target = running[parent], running[place]
            if source.blocks:
                source.shared = SharedBlocks(source.blocks, source.shared)
                source.blocks = []
            assert source.shared is not None, "a running sequence has blocks"
            source.shared.owners += 1
            self._let_go(target)
            target.shared, target.blocks = source.shared, []
            batch.forked.append(target)

    def _let_go(self, sequence: Sequence) -> None:
        """Free a sequence's own blocks, and the shared ones that nobody else continues."""
        self.pool.free(sequence.blocks)
        shared = sequence.shared
        while shared is not None:
            shared.owners -= 1
            if shared.owners:
                return
            self.pool.free(shared.blocks)
            shared = shared.before

    def swap_out(self, group: SequenceGroup, batch: Batch) -> None:
        """Move a group's own blocks to the CPU pool; its sequences still share them there.

        Raises UserError if the pool has too few free blocks.
        """
        needed, free = self._num_own_blocks(group), self.swap_pool.num_free
        if needed > free:
            raise UserError(
                f"preempting request {group.request.request_id} needs {needed} swap blocks but "
                f"{free} are free: raise --swap-space or lower the request rate"
            )
        self._entries -= sum(s.num_blocks for s in group.running)
        batch.swap_out.extend(self._move(group, self.pool, self.swap_pool))

    def can_swap_in(self, group: SequenceGroup) -> bool:
        """Whether a swapped group fits with one more block per sequence and the watermark."""
        needed = self._num_own_blocks(group) + len(group.running)
        return self.pool.num_free - needed >= self.watermark

    def swap_in(self, group: SequenceGroup, batch: Batch) -> None:
        """Move a group's blocks back to the device."""
        batch.swap_in.extend(self._move(group, self.swap_pool, self.pool))
        self._entries += sum(s.num_blocks for s in group.running)

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
        """Assert that each block is held once, that owners are counted right and none is lost."""
        prefixes = self._prefixes.values()
        owners = Counter(prefixes)
        on_device = [block for prefix in prefixes for block in prefix.blocks]
        swapped: list[int] = []
        for sequence in self._holders:
            held = swapped if sequence.group.status is Status.SWAPPED else on_device
            held += sequence.blocks
            part = sequence.shared
            while part is not None:
                owners[part] += 1
                if owners[part] > 1:
                    break
                assert part.blocks, "an empty part of a table"
                held += part.blocks
                part = part.before
        self.pool.check_integrity(on_device)
        self.swap_pool.check_integrity(swapped)
        assert all(part.owners == count for part, count in owners.items()), "owners miscounted"
        assert all(s.num_blocks == len(s.table) for s in self._holders), "tables miscounted"
        running = [s for s in self._holders if s.group.status is not Status.SWAPPED]
        assert self._entries == sum(s.num_blocks for s in running), "table entries miscounted"

    def _register_prefix(self, request: Request, table: list[int]) -> SharedBlocks | None:
        """Move a prefix's whole blocks from the start of `table` to where they are kept."""
        length = self._prefix_blocks(request)
        if not length:
            return None
        prefix = self._prefixes[self._prefix_key(request)] = SharedBlocks(table[:length], None)
        del table[:length]
        return prefix

    def _prefix_blocks(self, request: Request) -> int:
        """Whole blocks of the prefix; at least one prompt token is left to compute."""
        return min(request.prefix_len, request.prompt_len - 1) // self.block_size

    def _prefix_key(self, request: Request) -> Hashable:
        length = self._prefix_blocks(request) * self.block_size
        if request.prompt_token_ids is None:
            return length
        return request.prompt_token_ids[:length]

    def _prefix_of(self, request: Request) -> SharedBlocks | None:
        if not self._prefixes or not request.prefix_len:
            return None
        return self._prefixes.get(self._prefix_key(request))

    def _num_cached(self, request: Request) -> int:
        prefix = self._prefix_of(request)
        return 0 if prefix is None else prefix.end

    def _own_parts(self, group: SequenceGroup) -> list[list[int]]:
        """A group's blocks without the registered prefix, each in one of the lists."""
        parts: dict[SharedBlocks | None, list[int]] = {self._prefix_of(group.request): []}
        for sequence in group.running:
            shared = sequence.shared
            while shared is not None and shared not in parts:
                parts[shared] = shared.blocks
                shared = shared.before
        return [*parts.values(), *(sequence.blocks for sequence in group.running)]

    def _num_own_blocks(self, group: SequenceGroup) -> int:
        return sum(map(len, self._own_parts(group)))

    def _move(self, group: SequenceGroup, source: BlockPool, target: BlockPool) -> list[Swap]:
        moved: list[Swap] = []
        for blocks in self._own_parts(group):
            places = target.allocate(len(blocks))
            moved += map(Swap, blocks, places)
            source.free(blocks)
            blocks[:] = places
        return moved
