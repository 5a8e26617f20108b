"""What an executor promises: it alone knows how a batch is computed and how long that takes."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from engines.core.batch import Batch
from engines.core.kv import KVManager
from engines.core.request import Sequence, SequenceGroup


class Fork(NamedTuple):
    """A beam search step: running sequence i of `group` continues `parents[i]`.

    A sequence that survives keeps its place: parents[p] == p for every p in `parents`.
    """

    group: SequenceGroup
    parents: tuple[int, ...]


class StepResult(NamedTuple):
    """What came of a step.

    `elapsed_s` is its duration, simulated or measured. `stopped` are sequences that ended before
    their maximum length.
    """

    elapsed_s: float
    forks: list[Fork]
    stopped: list[Sequence]


class Executor(Protocol):
    """Computes batches: by a model on a device, or by a price."""

    def execute(self, batch: Batch) -> StepResult:
        """Apply the batch's changes, compute its prompts and decodes, choose tokens."""


@runtime_checkable
class RemoteExecutor(Executor, Protocol):
    """An executor whose steps run elsewhere, on copies of the batch.

    `execute` starts a step, waits for the one before and returns an empty result with the new one
    under way, so that the next can be scheduled meanwhile.
    """

    def follow(self, kv: KVManager) -> None:
        """Note all that the manager is asked to do; called once, before the first step."""

    def finish(self) -> StepResult:
        """Wait for the step under way and return its result."""
