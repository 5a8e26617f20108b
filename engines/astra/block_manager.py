"""Paged KV cache (paper, sections 4.2-4.5): block tables, copy-on-write, swapping, prefixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from engines.astra.block_pool import BlockPool
from engines.core.batch import Batch, Copy, Swap
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, Sequence, SequenceGroup, SharedBlocks, Status
from engines.core.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
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
        # Sequences that hold the same list of own blocks as another one of their group, until both
        # write to it: the one block that is the last of their tables.
        self._borrowers: dict[SequenceGroup, list[Sequence]] = {}
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

    @property
    def num_shared(self) -> int:
        """Table entries of running sequences less the blocks in use: as many more reads."""
        return max(0, self._entries - self.pool.num_used)

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
            before.owners += len(sequences)
        for sequence in sequences:
            sequence.shared, sequence.blocks = before, own
        if len(sequences) > 1:
            if len(own) > 1:
                self._leave_last(sequences)
            self._borrowers[group] = sequences[1:]
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
            self.grow([group], batch)

    def grow(self, groups: Iterable[SequenceGroup], batch: Batch) -> None:
        """Give one more block to each sequence of the groups, whose blocks are full."""
        sequences: list[Sequence] = []
        for group in groups:
            if group in self._borrowers:
                self._settle(group)
            sequences += group.running
        blocks = self.pool.allocate(len(sequences))
        for sequence, block in zip(sequences, blocks, strict=True):
            sequence.blocks.append(block)
        self._entries += len(sequences)
        batch.changed.extend(sequences)

    def unshare(self, group: SequenceGroup, batch: Batch) -> None:
        """Copy the last, partly filled block for all but one of the sequences that share it."""
        borrowers, size = self._borrowers.pop(group, None), self.block_size
        if borrowers is None:
            return
        copies = batch.copies
        targets = self.pool.allocate(len(borrowers))
        for sequence, target in zip(borrowers, targets, strict=True):
            copies.append(Copy(sequence.blocks[0] * size, target * size, size))  # whole blocks
            sequence.blocks = [target]
        batch.changed += borrowers

    def free(self, sequence: Sequence) -> None:
        """Let go of a running sequence's blocks."""
        group, blocks = sequence.group, sequence.blocks
        self._entries -= sequence.num_blocks
        self._let_go(sequence.shared)
        sequence.shared, sequence.blocks = None, []
        self._holders.discard(sequence)
        borrowers = self._borrowers.get(group)
        heirs = [s for s in group.running if s.blocks is blocks] if borrowers else []
        if borrowers and heirs:
            borrowers.remove(sequence if sequence in borrowers else heirs[0])
            if not borrowers:
                del self._borrowers[group]
        else:
            self.pool.free(blocks)

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Let beams that ended continue as their surviving parents.

        Until the next `append` they borrow a parent's last block; what is before it they share as
        a whole: a fork costs what differs.
        """
        running = group.running
        borrowers: list[Sequence] = []
        ended: list[int] = []
        for place, parent in enumerate(parents):
            if parent == place:
                continue
            assert parents[parent] == parent, f"beam {parent} is continued but did not survive"
            source, target = running[parent], running[place]
            batch.forked.append(target)
            if target.blocks is source.blocks:  # both have the prompt still in common
                continue
            ended += target.blocks
            if len(source.blocks) > 1:
                self._leave_last([source])
            if target.shared is not source.shared:
                if source.shared is not None:
                    source.shared.owners += 1
                self._let_go(target.shared)
                target.shared = source.shared
            target.blocks = source.blocks
            borrowers.append(target)
        if borrowers:
            assert group not in self._borrowers, "forked again before it was appended to"
            self._borrowers[group] = borrowers
            self.pool.free(ended)

    def _settle(self, group: SequenceGroup) -> None:
        """Turn borrowed blocks, which are full by now, into shared parts of the tables."""
        borrowed = {id(sequence.blocks) for sequence in self._borrowers.pop(group)}
        parts: dict[int, SharedBlocks] = {}
        for sequence in group.running:
            own = id(sequence.blocks)
            if own in parts:
                parts[own].owners += 1
                if sequence.shared is not None:
                    sequence.shared.owners -= 1
            elif own in borrowed:
                parts[own] = SharedBlocks(sequence.blocks, sequence.shared)
            else:
                continue
            sequence.shared, sequence.blocks = parts[own], []

    @staticmethod
    def _leave_last(sequences: list[Sequence]) -> None:
        """Share all but the last of the own blocks that sequences have in common."""
        blocks, before, owners = sequences[0].blocks, sequences[0].shared, len(sequences)
        part, last = SharedBlocks(blocks[:-1], before, owners), blocks[-1:]
        if before is not None:
            before.owners -= owners - 1
        for sequence in sequences:
            sequence.shared, sequence.blocks = part, last

    def _let_go(self, shared: SharedBlocks | None) -> None:
        """Free shared blocks that nobody else continues."""
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
        seen: set[int] = set()
        for sequence in self._holders:
            held = swapped if sequence.group.status is Status.SWAPPED else on_device
            if id(sequence.blocks) not in seen:
                held += sequence.blocks
            elif len(sequence.blocks) > 1:
                raise AssertionError("more than the last block is borrowed")
            seen.add(id(sequence.blocks))
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
        borrowers = sum(map(len, self._borrowers.values()))
        assert borrowers == len(self._holders) - len(seen), "borrowers miscounted"
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
        own = {id(sequence.blocks): sequence.blocks for sequence in group.running}
        return [*parts.values(), *own.values()]

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
