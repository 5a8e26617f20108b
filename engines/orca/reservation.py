"""How many slots Orca reserves for a request whose output length it may not know (section 6.1)."""

from __future__ import annotations

from collections.abc import Callable

from engines.core.config import System

Reservation = Callable[[int, int, int], int]


def reserve_oracle(prompt_len: int, output_len: int, max_len: int) -> int:
    """Know the output length: reserve exactly prompt and output."""
    return min(prompt_len + output_len, max_len)


def reserve_pow2(prompt_len: int, output_len: int, max_len: int) -> int:
    """Guess the output length within a factor of two: round it up to a power of two."""
    return min(prompt_len + (1 << (output_len - 1).bit_length()), max_len)


def reserve_max(_prompt_len: int, _output_len: int, max_len: int) -> int:
    """Know nothing: reserve all that the model could ever use."""
    return max_len


RESERVATIONS: dict[System, Reservation] = {
    System.ORCA_ORACLE: reserve_oracle,
    System.ORCA_POW2: reserve_pow2,
    System.ORCA_MAX: reserve_max,
}
