"""A pool of KV blocks with reference counts: the only place that allocates and frees blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class BlockPool:
    """Blocks 0 .. num_blocks-1, each free or referenced by one or more table entries."""

    __slots__ = ("_free", "_references", "num_blocks")

    def __init__(self, num_blocks: int) -> None:
        assert num_blocks >= 0, f"negative pool size {num_blocks}"
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._references = [0] * num_blocks

    @property
    def num_free(self) -> int:
        """Blocks without references."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that are referenced at least once."""
        return self.num_blocks - len(self._free)

    def allocate(self, references: int = 1) -> int:
        """Take a free block with the given reference count; asserts that there is one."""
        assert self._free, f"no block of {self.num_blocks} is free: admission must prevent it"
        block = self._free.pop()
        self._references[block] = references
        return block

    def share(self, block: int, references: int = 1) -> None:
        """Add references to a used block."""
        assert self._references[block] > 0, f"block {block} is free and cannot be shared"
        self._references[block] += references

    def share_all(self, blocks: Iterable[int], references: int = 1) -> None:
        """Add references to each of the used blocks."""
        counts = self._references
        for block in blocks:
            assert counts[block] > 0, f"block {block} is free and cannot be shared"
            counts[block] += references

    def unshare(self, block: int) -> int:
        """Replace a reference to a shared block by a new block; returns the block to write to.

        A block with one reference is returned as it is.
        """
        if self._references[block] == 1:
            return block
        self.release(block)
        return self.allocate()

    def release(self, block: int) -> None:
        """Drop one reference; the block is free when none is left."""
        left = self._references[block] - 1
        assert left >= 0, f"block {block} was freed twice"
        self._references[block] = left
        if left == 0:
            self._free.append(block)

    def allocate_many(self, count: int, references: int = 1) -> list[int]:
        """Take `count` free blocks with the given reference count; asserts there are enough."""
        first = len(self._free) - count
        assert first >= 0, f"{count} blocks of {self.num_blocks} are not free"
        blocks = self._free[first:]
        del self._free[first:]
        counts = self._references
        for block in blocks:
            counts[block] = references
        return blocks

    def release_all(self, blocks: Iterable[int]) -> None:
        """Drop one reference of each block."""
        counts, free = self._references, self._free
        for block in blocks:
            left = counts[block] - 1
            assert left >= 0, f"block {block} was freed twice"
            counts[block] = left
            if not left:
                free.append(block)

    def references(self, block: int) -> int:
        """Number of table entries that point to a block."""
        return self._references[block]

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Assert that reference counts equal the entries of `tables` and no block is lost."""
        entries = Counter(block for table in tables for block in table)
        counted = {b: n for b, n in enumerate(self._references) if n}
        assert counted == dict(entries), f"references {counted} differ from entries {entries}"
        assert len(set(self._free)) == len(self._free), "a block is in the free list twice"
        assert not counted.keys() & set(self._free), "a referenced block is in the free list"
        assert len(counted) + len(self._free) == self.num_blocks, "a block is lost"
