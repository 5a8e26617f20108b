"""The KV manager's contract with schedulers and statistics."""

from __future__ import annotations

from typing import Protocol

from engines.core.batch import Batch
from engines.core.request import Request, Sequence, SequenceGroup


class KVUsage:  # one a step: compiled, a class is made faster than a named tuple
    """KV slots by use during one step (paper, Fig. 2), and blocks for sharing (Fig. 15).

    `token` slots hold a token; `reservation` slots will be filled by a running request;
    `internal` slots are held but will never be used; `used` counts all slots that are not free in
    the allocator. External fragmentation is the rest: all slots - token - reservation - internal.
    """

    def __init__(
        self,
        token: int,
        reservation: int,
        internal: int,
        used: int,
        physical_blocks: int,
        logical_blocks: int,
    ) -> None:
        self.token = token
        self.reservation = reservation
        self.internal = internal
        self.used = used
        self.physical_blocks = physical_blocks
        self.logical_blocks = logical_blocks


class KVManager(Protocol):
    """Owner of all KV slots: decides what fits, and records which slots each sequence has.

    `admit` may be called only directly after `can_admit` returned True.
    """

    num_slots: int

    def check_request(self, request: Request) -> None:
        """Raise UserError for a request that would not fit into an empty cache."""

    def can_admit(self, group: SequenceGroup, num_tokens: int) -> bool:
        """Whether a group fits now, holding `num_tokens` per sequence."""

    def admit(self, group: SequenceGroup, num_tokens: int) -> int:
        """Allocate the group's slots; returns how many leading tokens are cached already."""

    def free(self, sequence: Sequence) -> None:
        """Free everything that a sequence holds."""

    def fork(self, group: SequenceGroup, parents: tuple[int, ...], batch: Batch) -> None:
        """Make running sequence i continue `parents[i]`; survivors have parents[i] == i."""

    def usage(self, batch: Batch) -> KVUsage:
        """Slots by use in the step that `batch` describes."""

    def check_integrity(self) -> None:
        """Assert every invariant of the manager. For tests: the cost is linear in its size."""
