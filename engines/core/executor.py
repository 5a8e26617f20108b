"""The executor's contract: it computes a batch, or prices it, and says how long it took."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from engines.core.batch import Batch
from engines.core.request import Sequence, SequenceGroup


class Fork(NamedTuple):
    """A beam search step: running sequence i of `group` continues `parents[i]`.

    A sequence that survives keeps its place: parents[p] == p for every p in `parents`.
    """

    group: SequenceGroup
    parents: tuple[int, ...]


class StepResult:  # one a step: compiled, a class is made faster than a named tuple
    """The outcome of a step.

    `elapsed_s` is its duration, simulated or measured. `stopped` are sequences that ended before
    their maximum length.
    """

    def __init__(self, elapsed_s: float, forks: list[Fork], stopped: list[Sequence]) -> None:
        self.elapsed_s = elapsed_s
        self.forks = forks
        self.stopped = stopped


class Executor(Protocol):
    """Computes batches with a model on a device, or prices them in the simulation."""

    def execute(self, batch: Batch) -> StepResult:
        """Apply the batch's changes, compute its prompts and decodes, choose tokens."""
