"""Contiguous KV cache of Orca: one buddy chunk per sequence from admission to its end."""

from __future__ import annotations

from engines.core.batch import Batch, Copy
from engines.core.config import EngineConfig, System
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, Sequence, SequenceGroup
from engines.core.subclassing import mypyc_attr
from engines.orca.buddy import BuddyAllocator


@mypyc_attr(allow_interpreted_subclasses=True)
class BuddyManager:
    """Reserves a sequence's whole length at once. `Sequence.blocks` holds its first slot."""

    def __init__(self, config: EngineConfig) -> None:
        self.num_slots = config.num_slots
        self._max_len = config.max_model_len
        self._system = config.system
        self.allocator = BuddyAllocator(config.num_slots)
        self._reserved_tokens = 0  # asked for, before rounding to chunks
        self._final_tokens = 0  # that will really be used

    def reserved_len(self, request: Request) -> int:
        """Slots that one sequence of a request asks for (section 6.1).

        Oracle knows the output's length, Pow2 guesses it within a factor of two, and Max reserves
        all that the model could ever use.
        """
        output_len = request.output_len
        if self._system is System.ORCA_MAX:
            return self._max_len
        if self._system is System.ORCA_POW2:
            output_len = 1 << (output_len - 1).bit_length()
        return min(request.prompt_len + output_len, self._max_len)

    def check_request(self, request: Request) -> None:
        """Raise UserError unless all sequences' reservations fit into an empty cache."""
        size = self.reserved_len(request)
        if self.num_slots >> BuddyAllocator.order_for(size) < request.sampling.n:
            raise UserError(
                f"request {request.request_id} reserves {request.sampling.n} x {size} contiguous "
                f"KV slots, more than {self.num_slots} slots provide: raise --kv-slots"
            )

    def can_admit(self, group: SequenceGroup, num_tokens: int) -> bool:
        """Whether a chunk is free for each sequence; the reservation covers every length."""
        return self.allocator.can_allocate(self.reserved_len(group.request), group.num_unfinished)

    def admit(self, group: SequenceGroup, num_tokens: int) -> int:
        """Reserve a chunk per sequence; nothing is ever cached beforehand."""
        size = self.reserved_len(group.request)
        for sequence in group.running:
            sequence.blocks = [self.allocator.allocate(size)]
            self._reserved_tokens += size
            self._final_tokens += self._final_len(sequence)
        return 0

    def free(self, sequence: Sequence) -> None:
        """Take back a sequence's chunk."""
        self.allocator.free(sequence.blocks[0])
        self._reserved_tokens -= self.reserved_len(sequence.group.request)
        self._final_tokens -= self._final_len(sequence)
        sequence.blocks = []

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Copy the chunk of each continued beam into that of one that ended.

        All of it, as in the original, which pairs the blocks of both reservations, filled or not.
        """
        num_tokens = 1 << self.allocator.order_for(self.reserved_len(group.request))
        for sequence, parent in zip(group.running, parents, strict=True):
            source = group.running[parent]
            if sequence is not source:
                assert parents[parent] == parent, f"beam {parent} is continued but did not survive"
                batch.copies.append(Copy(source.blocks[0], sequence.blocks[0], num_tokens))

    def usage(self, batch: Batch) -> KVUsage:
        """Slots by use, with the definitions under Fig. 2."""
        token = batch.context_tokens
        reservation = self._final_tokens - token
        internal = self._reserved_tokens - self._final_tokens
        used = self.num_slots - self.allocator.num_free
        return KVUsage(token, reservation, internal, used, batch.num_seqs, batch.num_seqs)

    def check_integrity(self) -> None:
        """Assert the allocator's invariants."""
        self.allocator.check_integrity()
        used = self.num_slots - self.allocator.num_free
        assert self._reserved_tokens <= used, "more slots reserved than allocated"
        assert self._final_tokens <= self._reserved_tokens, "a request outgrows its reservation"

    @staticmethod
    def _final_len(sequence: Sequence) -> int:
        request = sequence.group.request
        return request.prompt_len + request.output_len
