"""A pool of KV blocks: which are free. Who holds the others, and how many, is the manager's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class BlockPool:
    """Blocks 0 .. num_blocks-1, each free or held once.

    Only blocks that were used before are listed, so that a pool costs what is used of it.
    """

    __slots__ = ("_first_unused", "_returned", "num_blocks", "num_free")

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks >= 0, f"negative pool size {num_blocks}"
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._returned: list[int] = []  # the last one is taken first
        self._first_unused = 0  # from here on no block was ever taken

    @property
    def num_used(self) -> int:
        """Blocks that are held."""
        return self.num_blocks - self.num_free

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks; asserts that there are enough: admission must see to it."""
        assert count <= self.num_free, f"{count} blocks of {self.num_blocks} are not free"
        self.num_free -= count
        returned = self._returned
        first = len(returned) - count
        if first < 0:
            fresh = range(self._first_unused, self._first_unused - first)
            self._first_unused -= first
            blocks = [*returned, *fresh]
            returned.clear()
            return blocks
        blocks = returned[first:]
        del returned[first:]
        return blocks

    def free(self, blocks: list[int]) -> None:
        """Take blocks back."""
        self._returned += blocks
        self.num_free += len(blocks)
        assert self.num_free <= self.num_blocks, f"of {blocks} some were freed twice"

    def check_integrity(self, held: Iterable[int]) -> None:
        """Assert that each block is either one of `held` or free, and none is there twice."""
        free = [*self._returned, *range(self._first_unused, self.num_blocks)]
        assert len(free) == self.num_free, f"{self.num_free} blocks counted free, {len(free)} are"
        places = Counter([*held, *free])
        twice = [block for block, count in places.items() if count > 1]
        assert not twice, f"blocks {twice} are held twice, or free and held"
        assert places.keys() == set(range(self.num_blocks)), "a block is lost"
