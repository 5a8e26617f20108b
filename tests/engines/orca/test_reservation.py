"""How much Orca reserves, at and around powers of two and at the context's end."""

from __future__ import annotations

import pytest
from serving import make_config, make_request

from engines.orca.manager import BuddyManager


@pytest.mark.parametrize(
    ("system", "lengths"),
    [
        ("orca-oracle", [101, 102, 107, 108, 109, 2048]),
        ("orca-pow2", [101, 102, 108, 108, 116, 2048]),
        ("orca-max", [2048] * 6),
    ],
)
def test_reserved_slots(system: str, lengths: list[int]) -> None:
    """A prompt of 100 tokens with outputs of 1, 2, 7, 8, 9 and 1948 tokens."""
    manager = BuddyManager(make_config(system, num_slots=4096, max_model_len=2048))
    requests = [make_request(0, 100, output) for output in (1, 2, 7, 8, 9, 1948)]
    assert [manager.reserved_len(request) for request in requests] == lengths
