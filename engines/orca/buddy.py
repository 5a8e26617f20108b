"""Buddy allocation of KV slots (Knuth, TAOCP vol. 1, section 2.5)."""

from __future__ import annotations

from engines.core.subclassing import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class BuddyAllocator:
    """Chunks of power-of-two size from `num_slots` slots, which need not be a power of two.

    The slots are cut along the binary digits of their number into top-level chunks, largest
    first, so each is aligned to its size and a chunk's buddy is found by one exclusive or.
    """

    __slots__ = ("_allocated", "_free", "num_free", "num_slots")

    def __init__(self, num_slots: int) -> None:
        assert num_slots > 0, f"no slots to allocate from: {num_slots}"
        self.num_slots = num_slots
        self.num_free = num_slots
        self._allocated: dict[int, int] = {}  # start -> order
        # Free chunks' starts by order; dictionaries serve as sets that remember their order.
        self._free: list[dict[int, None]] = [{} for _ in range(num_slots.bit_length())]
        start = 0
        for order in range(num_slots.bit_length() - 1, -1, -1):
            if num_slots >> order & 1:
                self._free[order][start] = None
                start += 1 << order

    @staticmethod
    def order_for(size: int) -> int:
        """Order of the smallest chunk that holds `size` slots."""
        assert size > 0, f"cannot allocate {size} slots"
        return (size - 1).bit_length()

    def can_allocate(self, size: int, count: int = 1) -> bool:
        """Whether `count` chunks for `size` slots each could be allocated now."""
        order = self.order_for(size)
        available = 0
        for larger in range(order, len(self._free)):
            available += len(self._free[larger]) << (larger - order)
            if available >= count:
                return True
        return False

    def allocate(self, size: int) -> int:
        """Return the start of a chunk of at least `size` slots; asserts that there is one."""
        order = self.order_for(size)
        found = order
        while found < len(self._free) and not self._free[found]:
            found += 1
        assert found < len(self._free), f"no chunk of {1 << order} slots is free"
        start, _ = self._free[found].popitem()
        while found > order:
            found -= 1
            self._free[found][start + (1 << found)] = None
        self._allocated[start] = order
        self.num_free -= 1 << order
        return start

    def free(self, start: int) -> None:
        """Take back a chunk and merge it with its buddy for as long as that is free too."""
        assert start in self._allocated, f"no chunk is allocated at slot {start}"
        order = self._allocated.pop(start)
        self.num_free += 1 << order
        while order + 1 < len(self._free) and start ^ (1 << order) in self._free[order]:
            buddy = start ^ (1 << order)
            del self._free[order][buddy]
            start = min(start, buddy)
            order += 1
        self._free[order][start] = None

    def check_integrity(self) -> None:
        """Assert that free and allocated chunks tile the slots and no free buddies are left."""
        chunks = [(s, o) for s, o in self._allocated.items()]
        chunks += [(s, order) for order, starts in enumerate(self._free) for s in starts]
        position = 0
        for start, order in sorted(chunks):
            assert start == position, f"slots {position} to {start} are lost or held twice"
            assert start % (1 << order) == 0, f"chunk at {start} is not aligned to {1 << order}"
            position += 1 << order
        assert position == self.num_slots, f"chunks end at {position} of {self.num_slots}"
        free = sum(len(starts) << order for order, starts in enumerate(self._free))
        assert free == self.num_free, f"{self.num_free} slots counted free, {free} are"
        for order, starts in enumerate(self._free[:-1]):
            for start in starts:
                assert start ^ (1 << order) not in starts, f"buddies at {start} were not merged"
