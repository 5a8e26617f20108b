"""What a KV manager was asked to do, in order: enough for a copy of it to follow step by step.

Managers are deterministic, so whoever repeats these calls on a manager of the same configuration
holds the same tables, and gets the same copies and swaps, without being sent any block's number.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from itertools import chain, repeat
from typing import Any, NamedTuple

from engines.core.batch import Batch
from engines.core.kv import KVManager
from engines.core.request import Sequence, SequenceGroup


class Op(IntEnum):
    """A change to the running batch, named by what happens to its memory.

    The first two settle the step before; `FORM_BATCH` and `ADMIT` come after all others of a step.
    Sequences that get their blocks in one call are a `GROW` and then a `GROW_TOO` each.
    """

    FINISH = 0
    FORK = 1
    GROW = 2
    GROW_TOO = 3
    UNSHARE = 4
    PREEMPT = 5
    SWAP_OUT = 6
    SWAP_IN = 7
    FORM_BATCH = 8
    ADMIT = 9


class Event(NamedTuple):
    """One change. `value` is the sequence's index (FINISH, GROW, PREEMPT), the tokens held
    afterwards (ADMIT) or the row length (FORM_BATCH, which concerns no group); `parents` are a
    fork's."""

    op: Op
    group: SequenceGroup | None
    value: int = 0
    parents: tuple[int, ...] = ()


class Journal:
    """Writes down what one manager is asked to do."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def watch(self, kv: KVManager) -> None:
        """Note every change from now on; for a manager that nothing has been asked of yet."""
        for name, describe in _WATCHED.items():
            method = getattr(kv, name, None)
            if method is not None:
                setattr(kv, name, self._noting(method, describe))

    def take(self) -> list[Event]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        return events

    def _noting(self, method: Callable[..., Any], describe: Callable[..., list[Event]]) -> Any:
        def noted(*args: Any) -> Any:
            self._events += describe(*args)
            return method(*args)

        return noted


def _free(sequence: Sequence) -> list[Event]:
    return [Event(Op.FINISH if sequence.finished else Op.PREEMPT, sequence.group, sequence.index)]


def _grow(sequences: list[Sequence], _batch: Batch) -> list[Event]:
    ops = chain([Op.GROW], repeat(Op.GROW_TOO))
    return [Event(op, s.group, s.index) for op, s in zip(ops, sequences, strict=False)]


# The managers' methods that move memory and call none of the others, and what a call of each means.
_WATCHED: dict[str, Callable[..., list[Event]]] = {
    "admit": lambda group, num_tokens: [Event(Op.ADMIT, group, num_tokens)],
    "grow": _grow,
    "unshare": lambda group, _batch: [Event(Op.UNSHARE, group)],
    "free": _free,
    "fork": lambda group, parents, _batch: [Event(Op.FORK, group, parents=tuple(parents))],
    "swap_out": lambda group, _batch: [Event(Op.SWAP_OUT, group)],
    "swap_in": lambda group, _batch: [Event(Op.SWAP_IN, group)],
    "form_batch": lambda row_len, _step: [Event(Op.FORM_BATCH, None, row_len)],
}
