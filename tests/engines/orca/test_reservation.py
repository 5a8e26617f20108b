"""How much Orca reserves, at and around powers of two and at the context's end."""

from __future__ import annotations

import pytest

from engines.core.config import System
from engines.orca.reservation import RESERVATIONS


@pytest.mark.parametrize(
    ("system", "lengths"),
    [
        (System.ORCA_ORACLE, [101, 102, 107, 108, 109, 2048]),
        (System.ORCA_POW2, [101, 102, 108, 108, 116, 2048]),
        (System.ORCA_MAX, [2048] * 6),
    ],
)
def test_reserved_slots(system: System, lengths: list[int]) -> None:
    """A prompt of 100 tokens with outputs of 1, 2, 7, 8, 9 and 1948 tokens."""
    reserve = RESERVATIONS[system]
    assert [reserve(100, output, 2048) for output in (1, 2, 7, 8, 9, 1948)] == lengths
