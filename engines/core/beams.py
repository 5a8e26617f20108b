"""Beam search bookkeeping that models and the simulation share."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Placement(NamedTuple):
    """For each place: the candidate that gets it, and the beam which that candidate continues."""

    candidates: tuple[int, ...]
    parents: tuple[int, ...]


@lru_cache(maxsize=1 << 14)  # the same few patterns recur
def place_children(parents: tuple[int, ...]) -> Placement:
    """Assign places to the chosen candidates such that surviving beams keep theirs.

    `parents[c]` is the beam that candidate c continues, best candidate first. A surviving beam's
    place gets its best candidate; the other candidates get the places of beams that ended. Only
    these places need their cache replaced.
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
