"""What rank 0 tells the driver after a step: what was decided about sequences, and the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engines.execution.wire import Reader, pack, record

_HEADER = record(
    step="u4", model_s="f8", idle_s="f8", forks="u4", parents="u4", stopped="u4", outputs="u4"
)
_FORK = record(request_id="u4", num_parents="u1")
_PARENT = np.dtype("u1")
_STOPPED = record(request_id="u4", index="u2")
_OUTPUT = record(request_id="u4", index="u2", num_tokens="u4", logprob="f8")
_TOKEN = np.dtype("<i4")


@dataclass(frozen=True)
class Output:
    """A complete output of a request."""

    request_id: int
    index: int
    logprob: float
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class StepReply:
    """A step's result.

    `model_s` is the forward pass, `idle_s` the time that the rank waited for the step's message
    since the step before. `forks` are (request id, parents), `stopped` (request id, index).
    """

    step: int
    model_s: float
    idle_s: float
    forks: tuple[tuple[int, tuple[int, ...]], ...] = ()
    stopped: tuple[tuple[int, int], ...] = ()
    outputs: tuple[Output, ...] = ()

    def encode(self) -> bytes:
        """Return the reply's bytes."""
        parents = [parent for _, row in self.forks for parent in row]
        tokens = [token for output in self.outputs for token in output.token_ids]
        counts = (len(self.forks), len(parents), len(self.stopped), len(self.outputs))
        outputs = [(o.request_id, o.index, len(o.token_ids), o.logprob) for o in self.outputs]
        return pack(
            (_HEADER, [(self.step, self.model_s, self.idle_s, *counts)]),
            (_FORK, [(request_id, len(row)) for request_id, row in self.forks]),
            (_PARENT, parents),
            (_STOPPED, list(self.stopped)),
            (_OUTPUT, outputs),
            (_TOKEN, tokens),
        )

    @classmethod
    def decode(cls, data: bytes) -> StepReply:
        """Return the reply of which these are the bytes."""
        reader = Reader(data)
        (header,) = reader.take(_HEADER, 1).tolist()
        step, model_s, idle_s, num_forks, num_parents, num_stopped, num_outputs = header
        forks = reader.take(_FORK, num_forks).tolist()
        parents = iter(reader.take(_PARENT, num_parents).tolist())
        stopped = reader.take(_STOPPED, num_stopped).tolist()
        heads = reader.take(_OUTPUT, num_outputs).tolist()
        outputs = [
            Output(request_id, index, logprob, tuple(reader.take(_TOKEN, count).tolist()))
            for request_id, index, count, logprob in heads
        ]
        reader.close()
        return cls(
            step,
            model_s,
            idle_s,
            tuple((request_id, tuple(next(parents) for _ in range(n))) for request_id, n in forks),
            tuple(stopped),
            tuple(outputs),
        )
