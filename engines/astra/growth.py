"""Which groups write to a new or a shared block in a step: only these need to be visited."""

from __future__ import annotations

from engines.core.request import SequenceGroup


class GrowthCalendar:
    """Running groups by the steps in which they need blocks.

    A group enters a new block in every `block_size`-th step, so groups are filed by the remainder
    of these steps. `sharing` holds groups whose last block may be shared by several sequences, so
    that their next write copies it. Dictionaries are used as ordered sets.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._groups: list[dict[SequenceGroup, None]] = [{} for _ in range(block_size)]
        self.sharing: dict[SequenceGroup, None] = {}

    def add(self, group: SequenceGroup) -> None:
        """File a group that has joined the batch."""
        self._groups[self._remainder(group)][group] = None

    def remove(self, group: SequenceGroup) -> None:
        """Remove a group that leaves the batch."""
        del self._groups[self._remainder(group)][group]
        self.sharing.pop(group, None)

    def growing(self, step: int) -> dict[SequenceGroup, None]:
        """Groups that write a block's first token in `step`."""
        return self._groups[step % self._block_size]

    def take_sharing(self, step: int) -> list[SequenceGroup]:
        """Remove and return the groups, except growing ones, that may copy their last block."""
        if not self.sharing:
            return []
        growing = self.growing(step)
        sharing = [group for group in self.sharing if group not in growing]
        self.sharing.clear()
        return sharing

    def _remainder(self, group: SequenceGroup) -> int:
        return (group.start_step - group.start_len + 1) % self._block_size
