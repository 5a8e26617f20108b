"""Requests, and the engine's state of each while it is served."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from engines.core.sampling import SamplingParams


class Request(NamedTuple):
    """One request of a workload. Lengths are in tokens, `arrival_s` in seconds from the start.

    `prefix_len` leading tokens are a registered prefix that other requests share.
    `prompt_token_ids` are needed only by executors that run a model.
    """

    request_id: int
    arrival_s: float
    prompt_len: int
    output_len: int
    sampling: SamplingParams = SamplingParams()
    prefix_len: int = 0
    prompt_token_ids: tuple[int, ...] | None = None


class Status(Enum):
    """State of a group."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    FINISHED = "finished"


class SharedBlocks:
    """Consecutive blocks that several tables have in common, and the part of the table before.

    `owners` counts the sequences and the later parts that continue this one; the last of them to
    let go frees the blocks. `end` is the number of table entries up to here.
    """

    __slots__ = ("before", "blocks", "end", "owners")

    def __init__(self, blocks: list[int], before: SharedBlocks | None, owners: int = 1) -> None:
        self.blocks = blocks
        self.before = before
        self.owners = owners
        self.end: int = len(blocks) + (0 if before is None else before.end)


class Sequence:
    """One output of a request: its blocks in the KV cache and, with a model, its tokens.

    Its table is the `shared` blocks, then its own `blocks`; both belong to the KV manager.
    `output_token_ids` and `cumulative_logprob` are written by executors that run a model.
    """

    __slots__ = (
        "blocks",
        "cumulative_logprob",
        "finished",
        "group",
        "index",
        "output_token_ids",
        "shared",
    )

    def __init__(self, group: SequenceGroup, index: int) -> None:
        self.group = group
        self.index = index
        self.shared: SharedBlocks | None = None
        self.blocks: list[int] = []
        self.finished = False
        self.output_token_ids: list[int] = []
        self.cumulative_logprob = 0.0

    @property
    def num_blocks(self) -> int:
        """Entries of its table."""
        return len(self.blocks) + (0 if self.shared is None else self.shared.end)

    @property
    def table(self) -> list[int]:
        """All its blocks in the order of its tokens."""
        parts, shared = [self.blocks], self.shared
        while shared is not None:
            parts.append(shared.blocks)
            shared = shared.before
        return [block for part in reversed(parts) for block in part]


class SequenceGroup:
    """A request being served: sequences of equal length that run and are preempted together.

    Lengths are not updated in each step: a group that joined the batch at `start_step` with
    `start_len` tokens has `start_len + step - start_step` at a later step. So an unchanged group
    costs nothing in a decode step. `next_len` is the length that a waiting or swapped group will
    have in the step in which it joins the batch (again).
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.order = (request.arrival_s, request.request_id)  # first come, first served
        self.sequences: tuple[Sequence, ...] = ()
        self.num_unfinished = request.sampling.n
        self.running: list[Sequence] = []
        self.status = Status.WAITING
        self.start_step = 0
        self.start_len = 0
        self.next_len = request.prompt_len
        self.last_step = -1  # the step that makes its last token, while it runs
        self.preempted_step = -1
        self.num_preemptions = 0
        self.first_token_s: float | None = None
        self.finish_s: float | None = None

    def start(self) -> None:
        """Let all sequences run that have not ended; there are `num_unfinished`.

        They are made here and not before, so that a long queue takes little memory.
        """
        if not self.sequences:
            self.sequences = tuple(Sequence(self, i) for i in range(self.request.sampling.n))
        self.running = [s for s in self.sequences if not s.finished]

    def context_len(self, step: int) -> int:
        """Tokens in each running sequence's KV cache after `step` has executed."""
        return self.start_len + step - self.start_step
