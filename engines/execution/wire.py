"""Flat records as bytes: numpy arrays one after another, no objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.void]


def record(**fields: Any) -> np.dtype[np.void]:
    """A packed little-endian record type; `fields` maps names to numpy types."""
    return np.dtype([(name, np.dtype(kind).newbyteorder("<")) for name, kind in fields.items()])


def pack(*parts: tuple[np.dtype[Any], list[Any]]) -> bytes:
    """Write lists of values (of tuples, for records), each in its type."""
    return b"".join(np.array(values, dtype=kind).tobytes() for kind, values in parts)


class Reader:
    """Reads back what `pack` wrote, without copying; the sender's counts say how much."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, kind: np.dtype[Any], count: int) -> Any:
        """The next `count` values as an array; asserts that there are so many."""
        end = self._offset + count * kind.itemsize
        assert end <= len(self._data), f"record of {len(self._data)} bytes ends before {end}"
        array = np.frombuffer(self._data, kind, count, self._offset)
        self._offset = end
        return array

    def close(self) -> None:
        """Assert that nothing is left."""
        left = len(self._data) - self._offset
        assert left == 0, f"{left} bytes left over in a record of {len(self._data)}"
