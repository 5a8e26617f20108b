"""The running batch, kept between steps; executors get only what changed since the last step."""

from __future__ import annotations

from typing import Any, NamedTuple

from engines.core.request import Sequence, SequenceGroup


class Prompt(NamedTuple):
    """A prompt to compute in this step.

    `num_tokens` is its length (for a recomputed group, generated tokens included), of which the
    first `num_cached` are in the cache already. `copies` is the number of sequences that compute
    it: 1 if the group's sequences share it, n if each has its own.
    """

    group: SequenceGroup
    num_tokens: int
    num_cached: int = 0
    copies: int = 1


class Copy(NamedTuple):
    """`num_tokens` KV entries to copy on the device between slot addresses, before the step."""

    source_slot: int
    target_slot: int
    num_tokens: int


class Swap(NamedTuple):
    """One block to move between the device's pool and the CPU pool, before the step."""

    source_block: int
    target_block: int


class Batch:
    """The running groups, as totals, and the changes since the last step, as lists.

    Totals are updated, never recomputed: a step without changes costs two additions.
    Executors apply the lists to their own state in this order: `left`, `swap_out`, `swap_in`,
    `forked`, `copies`, `joined`, `changed`; then they compute `prompts` and one token for
    each sequence that was running before.
    """

    def __init__(self) -> None:
        self.step = 0
        self.num_groups = 0  # groups running, prompts of this step included
        self.num_seqs = 0  # their running sequences
        self.context_tokens = 0  # sum of their context lengths
        self.num_decodes = 0  # sequences that decode in this step
        self.decode_context_tokens = 0  # sum of their context lengths, the new token included
        self.shared_blocks = 0  # entries of their block tables, less the blocks behind them
        self.beam_groups: dict[int, SequenceGroup] = {}  # by request id
        self.prompts: list[Prompt] = []
        self.joined: list[Sequence] = []
        self.left: list[Sequence] = []
        self.forked: list[Sequence] = []  # their whole table was replaced
        self.changed: list[Sequence] = []  # their table's last entry is new or a different block
        self.copies: list[Copy] = []
        self.swap_in: list[Swap] = []
        self.swap_out: list[Swap] = []
        self._changes: tuple[list[Any], ...] = (
            *(self.prompts, self.joined, self.left, self.forked),
            *(self.changed, self.copies, self.swap_in, self.swap_out),
        )

    def begin(self, step: int) -> None:
        """Start a step: every running sequence gets one more token."""
        self.step = step
        self.context_tokens += self.num_seqs

    def fix_decodes(self) -> None:
        """Fix the decoding sequences: those running now. Groups that join later have a prompt."""
        self.num_decodes = self.num_seqs
        self.decode_context_tokens = self.context_tokens

    def join(self, group: SequenceGroup, context_len: int) -> None:
        """Add a group whose sequences hold `context_len` tokens after this step."""
        group.start_step = self.step
        group.start_len = context_len
        self.num_groups += 1
        self.num_seqs += len(group.running)
        self.context_tokens += len(group.running) * context_len
        self.joined.extend(group.running)
        if group.request.sampling.beam:
            self.beam_groups[group.request.request_id] = group

    def leave(self, group: SequenceGroup, sequences: list[Sequence]) -> None:
        """Remove some or all of a group's running sequences.

        None of them is reported as forked: executors drop `left` before they apply forks.
        """
        self.num_groups -= int(len(sequences) == len(group.running))
        self.num_seqs -= len(sequences)
        self.context_tokens -= len(sequences) * group.context_len(self.step)
        self.left.extend(sequences)
        if self.forked:
            self.forked[:] = [s for s in self.forked if s not in sequences]
        self.beam_groups.pop(group.request.request_id, None)

    def clear_changes(self) -> None:
        """Forget the changes that the executor has applied."""
        for changes in self._changes:
            if changes:
                changes.clear()
