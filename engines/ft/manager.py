"""Contiguous, padded KV cache of FasterTransformer: one rectangle per batch."""

from __future__ import annotations

from collections import Counter

from engines.core.batch import Batch
from engines.core.config import EngineConfig
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, Sequence, SequenceGroup
from engines.core.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class PaddedManager:
    """Gives every sequence of a batch the same number of slots: longest input + longest output.

    `Sequence.blocks` holds its first slot. The scheduler sets the row length when it forms a
    batch, and only while the cache is empty.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.num_slots = config.num_slots
        self.row_len = 0
        self._rows: list[Sequence] = []
        self._start_step = 0
        self._tokens_at: list[int] = []  # of the present batch, by its steps; made when asked for

    def check_request(self, request: Request) -> None:
        """Raise UserError unless the request fits alone."""
        needed = request.sampling.n * (request.prompt_len + request.output_len)
        if needed > self.num_slots:
            raise UserError(
                f"request {request.request_id} needs {needed} KV slots but there are "
                f"{self.num_slots}: raise --kv-slots"
            )

    def form_batch(self, row_len: int, step: int) -> None:
        """Set the slots per sequence of the batch that starts in `step`."""
        assert not self._rows, "a batch is formed while another one runs"
        self.row_len = row_len
        self._start_step = step
        self._tokens_at = []

    def can_admit(self, group: SequenceGroup, num_tokens: int) -> bool:
        """Whether there are rows left for the group."""
        return (len(self._rows) + group.num_unfinished) * self.row_len <= self.num_slots

    def admit(self, group: SequenceGroup, num_tokens: int) -> int:
        """Give each sequence the next row."""
        for sequence in group.running:
            sequence.blocks = [len(self._rows) * self.row_len]
            self._rows.append(sequence)
        return 0

    def free(self, sequence: Sequence) -> None:
        """Give up a row; rows are reused when all of the batch is done."""
        self._rows.remove(sequence)
        sequence.blocks = []

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Do nothing: FasterTransformer redirects reads through a table of ancestors, no copy."""

    def usage(self, batch: Batch) -> KVUsage:
        """Slots by use; padding of inputs and outputs is internal fragmentation."""
        if not self._tokens_at:
            self._tokens_at = self._count_tokens()
        token = self._tokens_at[min(batch.step - self._start_step, len(self._tokens_at) - 1)]
        final = self._tokens_at[-1]
        rows = len(self._rows)
        used = rows * self.row_len
        return KVUsage(token, final - token, used - final, used, rows, rows)

    def _count_tokens(self) -> list[int]:
        """Slots that hold a token after each step of the batch, from the prompts' on."""
        requests = [sequence.group.request for sequence in self._rows]
        ending = Counter(request.output_len for request in requests)
        counts = [sum(request.prompt_len for request in requests)]
        growing = len(requests)
        for generated in range(1, max(ending, default=0) + 1):
            counts.append(counts[-1] + growing)
            growing -= ending[generated]
        return counts

    def check_integrity(self) -> None:
        """Assert that rows are disjoint and within the cache."""
        starts = sorted(sequence.blocks[0] for sequence in self._rows)
        for start, following in zip(starts, [*starts, self.num_slots][1:], strict=True):
            assert start + self.row_len <= following, f"row at slot {start} overlaps the next"
