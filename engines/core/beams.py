"""Bookkeeping of beam search that models and the simulation share."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Placement(NamedTuple):
    """By place: which candidate gets it, and which beam that candidate continues."""

    candidates: tuple[int, ...]
    parents: tuple[int, ...]


@lru_cache(maxsize=1 << 14)  # the same few patterns come again and again
def place_children(parents: tuple[int, ...]) -> Placement:
    """Give the chosen candidates places so that beams which survive stay where they are.

    `parents[c]` is the beam that candidate c continues, best candidate first. A surviving beam's
    place gets its best candidate, the places of beams that ended get the others. Only the latter
    need their cache replaced.
    """
    order: list[int] = [-1] * len(parents)
    others: list[int] = []
    for candidate, parent in enumerate(parents):
        if order[parent] < 0:
            order[parent] = candidate
        else:
            others.append(candidate)
    rest = iter(others)
    candidates = tuple(candidate if candidate >= 0 else next(rest) for candidate in order)
    return Placement(candidates, tuple(parents[candidate] for candidate in candidates))
