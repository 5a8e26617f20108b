"""What the driver sends to the ranks before each step: the batch's change, not the batch.

A message is a header and one small record per change (see `engines.core.journal`): 15 bytes for a
request that starts, one more per beam for a group that forks, 7 for all else. No block numbers
travel, since every rank keeps a copy of the KV manager. (Where a context may exceed 65535 tokens,
lengths take four bytes instead of two: 25 bytes to start.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.core.batch import Batch
from engines.core.journal import Event, Op
from engines.core.request import Request, SamplingParams
from engines.execution.wire import Reader, pack, record

MAX_PARENTS = 255

_HEADER = record(
    step="u4", num_seqs="u4", context_tokens="u8", used_slots="u8",
    events="u4", parents="u4", requests="u4",
)  # fmt: skip
_PARENT = np.dtype("u1")


@dataclass(frozen=True)
class Totals:
    """What a copy must agree with after following a step: the batch's totals and slots in use."""

    step: int
    num_seqs: int
    context_tokens: int
    used_slots: int

    @classmethod
    def of(cls, batch: Batch, used_slots: int) -> Totals:
        """The totals of a batch that is about to run."""
        return cls(batch.step, batch.num_seqs, batch.context_tokens, used_slots)


@dataclass(frozen=True)
class Change:
    """An event on the wire. `request_id` is 0 where no request is concerned."""

    op: Op
    request_id: int
    value: int = 0
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Described:
    """A request that runs for the first time. `sampling` counts the parameters sent so far."""

    prompt_len: int
    output_len: int
    prefix_len: int
    sampling: int


@dataclass(frozen=True)
class StepMessage:
    """One step's changes; `requests` are those of the ADMITs of new requests, in order."""

    totals: Totals
    changes: tuple[Change, ...]
    requests: tuple[Described, ...]


@dataclass(frozen=True)
class Inputs:
    """What requests bring along, sent once beside the step's message: sampling parameters not
    seen before, and the token ids of prompts that were given (int32, by request id)."""

    samplings: tuple[SamplingParams, ...] = ()
    prompts: Mapping[int, NDArray[np.int32]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.samplings or self.prompts)


class StepCodec:
    """Writes and reads messages about contexts of at most `max_len` tokens."""

    def __init__(self, max_len: int) -> None:
        length = "u2" if max_len <= np.iinfo(np.uint16).max else "u4"
        self._change = record(op="u1", request_id="u4", value=length)
        self._request = record(
            prompt_len=length, output_len=length, prefix_len=length, sampling="u2"
        )

    def encode(self, message: StepMessage) -> bytes:
        """Return the message's bytes."""
        parents = [parent for change in message.changes for parent in change.parents]
        totals = message.totals
        counts = (len(message.changes), len(parents), len(message.requests))
        header = (totals.step, totals.num_seqs, totals.context_tokens, totals.used_slots, *counts)
        changes = [(c.op, c.request_id, len(c.parents) or c.value) for c in message.changes]
        requests = [
            (r.prompt_len, r.output_len, r.prefix_len, r.sampling) for r in message.requests
        ]
        return pack(
            (_HEADER, [header]),
            (self._change, changes),
            (_PARENT, parents),
            (self._request, requests),
        )

    def decode(self, data: bytes) -> StepMessage:
        """Return the message of which these are the bytes."""
        reader = Reader(data)
        (header,) = reader.take(_HEADER, 1).tolist()
        *totals, num_changes, num_parents, num_requests = header
        rows = reader.take(self._change, num_changes).tolist()
        parents = reader.take(_PARENT, num_parents).tolist()
        requests = reader.take(self._request, num_requests).tolist()
        reader.close()
        return StepMessage(
            Totals(*totals), _changes(rows, parents), tuple(Described(*r) for r in requests)
        )


def _changes(rows: Sequence[Any], parents: list[int]) -> tuple[Change, ...]:
    changes = []
    begin = 0
    for op, request_id, value in rows:
        if op == Op.FORK:
            end = begin + value
            changes.append(Change(Op.FORK, request_id, parents=tuple(parents[begin:end])))
            begin = end
        else:
            changes.append(Change(Op(op), request_id, value))
    return tuple(changes)


class StepWriter:
    """The driver's side: turns a journal into messages, describing each request once."""

    def __init__(self) -> None:
        self._known: set[int] = set()  # requests that the ranks hold
        self._samplings: dict[SamplingParams, int] = {}

    def write(self, totals: Totals, events: Sequence[Event]) -> tuple[StepMessage, Inputs]:
        """Return a step's message, and what is to be sent beside it (usually nothing)."""
        changes, requests = [], []
        fresh: list[SamplingParams] = []
        prompts: dict[int, NDArray[np.int32]] = {}
        for op, group, value, parents in events:
            if group is None:
                changes.append(Change(op, 0, value))
                continue
            request = group.request
            assert len(parents) <= MAX_PARENTS, f"{len(parents)} beams, at most {MAX_PARENTS}"
            changes.append(Change(op, request.request_id, value, parents))
            if op is Op.ADMIT and request.request_id not in self._known:
                self._known.add(request.request_id)
                requests.append(self._describe(request, fresh))
                if request.prompt_token_ids is not None:
                    prompts[request.request_id] = np.array(request.prompt_token_ids, np.int32)
            elif op is Op.FINISH and all(s.finished for s in group.sequences):
                self._known.discard(request.request_id)
        message = StepMessage(totals, tuple(changes), tuple(requests))
        return message, Inputs(tuple(fresh), prompts)

    def _describe(self, request: Request, fresh: list[SamplingParams]) -> Described:
        sampling = self._samplings.get(request.sampling)
        if sampling is None:
            sampling = self._samplings[request.sampling] = len(self._samplings)
            fresh.append(request.sampling)
        return Described(request.prompt_len, request.output_len, request.prefix_len, sampling)
