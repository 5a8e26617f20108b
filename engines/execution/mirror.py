"""A rank's copy of the running batch, which follows the driver's by its step messages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from engines.core.batch import Batch, Prompt
from engines.core.journal import Op
from engines.core.request import Request, SamplingParams, Sequence, SequenceGroup, Status
from engines.core.scheduler import Scheduler
from engines.execution.step_message import Change, Described, Inputs, StepMessage, Totals


class Mirror:
    """Repeats the driver's changes on a KV manager of its own.

    The scheduler is there for its manager, its batch and how its system computes prompts; its
    policy is never asked. Groups are kept from their first admission to their end.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._kv = scheduler.kv
        self._batch = scheduler.batch
        self._shares_prompts = scheduler.shares_prompts
        self._groups: dict[int, SequenceGroup] = {}
        self._samplings: list[SamplingParams] = []
        self._growing: list[Sequence] = []  # that are being named

    def group(self, request_id: int) -> SequenceGroup:
        """A request that has started and not ended."""
        return self._groups[request_id]

    def follow(self, message: StepMessage, inputs: Inputs) -> Batch:
        """Return the batch to execute, as the driver's was when it wrote the message."""
        self._samplings += inputs.samplings
        batch, step = self._batch, message.totals.step
        batch.clear_changes()
        described = iter(message.requests)
        settling, keeping, admitting = _phases(message.changes)
        for change in settling:
            self._settle(change)
        batch.begin(step)
        for change in keeping:
            self._keep(change)
        self._grow()
        batch.fix_decodes()
        for change in admitting:
            self._admit(change, described, inputs)
        copied = Totals.of(batch, self._kv.usage(batch).used)
        assert copied == message.totals, f"copy has {copied}, driver {message.totals}"
        return batch

    def _settle(self, change: Change) -> None:
        """What the driver did once it knew the last step's result."""
        group = self._groups[change.request_id]
        if change.op is Op.FORK:
            self._kv.fork(group, change.parents, self._batch)
            return
        sequence = group.sequences[change.value]
        self._batch.leave(group, [sequence])
        sequence.finished = True
        self._kv.free(sequence)
        group.running = [s for s in group.running if not s.finished]
        group.num_unfinished = len(group.running)
        if not group.running:
            group.status = Status.FINISHED
            del self._groups[change.request_id]

    def _keep(self, change: Change) -> None:
        """What the driver did about groups that had started before."""
        batch, group = self._batch, self._groups[change.request_id]
        kv: Any = self._kv  # a manager that grows and swaps where the driver's does
        if change.op is not Op.GROW_TOO:
            self._grow()
        match change.op:
            case Op.GROW | Op.GROW_TOO:
                self._growing.append(group.sequences[change.value])
            case Op.UNSHARE:
                kv.unshare(group, batch)
            case Op.PREEMPT:
                sequence = group.sequences[change.value]
                batch.leave(group, [sequence])
                kv.free(sequence)
                group.running.remove(sequence)
                group.status = Status.WAITING
            case Op.SWAP_OUT:
                group.next_len = group.context_len(batch.step)
                batch.leave(group, group.running)
                kv.swap_out(group, batch)
                group.status = Status.SWAPPED
            case _:
                kv.swap_in(group, batch)
                group.status = Status.RUNNING
                batch.join(group, group.next_len)

    def _grow(self) -> None:
        """Give blocks to the sequences that got theirs together, as many as have been named."""
        kv: Any = self._kv
        if self._growing:
            kv.grow(self._growing, self._batch)
            self._growing = []

    def _admit(self, change: Change, described: Iterator[Described], inputs: Inputs) -> None:
        kv: Any = self._kv
        if change.op is Op.FORM_BATCH:
            kv.form_batch(change.value, self._batch.step)
            return
        if change.request_id not in self._groups:
            request = self._request(change.request_id, next(described), inputs)
            self._groups[change.request_id] = SequenceGroup(request)
        group, num_tokens = self._groups[change.request_id], change.value
        group.running = group.unfinished
        cached = kv.admit(group, num_tokens)
        copies = 1 if self._shares_prompts else group.request.sampling.n
        self._batch.prompts.append(Prompt(group, num_tokens, cached, copies))
        group.status = Status.RUNNING
        self._batch.join(group, num_tokens)

    def _request(self, request_id: int, described: Described, inputs: Inputs) -> Request:
        tokens = inputs.prompts.get(request_id)
        return Request(
            request_id,
            0.0,  # arrivals are the driver's business
            described.prompt_len,
            described.output_len,
            self._samplings[described.sampling],
            described.prefix_len,
            None if tokens is None else tuple(tokens.tolist()),
        )


def _phases(changes: tuple[Change, ...]) -> tuple[tuple[Change, ...], ...]:
    """Split a step's changes: settling the last step, keeping what runs, admitting."""
    first = bisect_right(changes, False, key=lambda change: change.op > Op.FORK)
    second = bisect_right(changes, False, key=lambda change: change.op > Op.SWAP_IN)
    return changes[:first], changes[first:second], changes[second:]
