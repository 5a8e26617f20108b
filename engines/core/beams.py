"""Beam search bookkeeping that models and the simulation share."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple


class Placement(NamedTuple):
    """For each place: the candidate that gets it, and the beam which that candidate continues."""

    candidates: tuple[int, ...]
    parents: tuple[int, ...]


@lru_cache(maxsize=1 << 16)  # the same few patterns recur
def place_children(parents: tuple[int, ...]) -> Placement:
    """Assign places to the chosen candidates such that surviving beams keep theirs.

    `parents[c]` is the beam that candidate c continues, best candidate first. A surviving beam's
    place gets its best candidate; the other candidates get the places of beams that ended. Only
    these places need their cache replaced.
    """
    candidates = [-1] * len(parents)
    others: list[int] = []
    for candidate, parent in enumerate(parents):
        if candidates[parent] < 0:
            candidates[parent] = candidate
        else:
            others.append(candidate)
    placed = list(range(len(parents)))  # of a place whose beam survives, itself
    for candidate in others:
        place = candidates.index(-1)
        candidates[place] = candidate
        placed[place] = parents[candidate]
    return Placement(tuple(candidates), tuple(placed))
