"""Bookkeeping of beam search that models and the simulation share."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1 << 14)  # the same few patterns come again and again
def place_children(parents: tuple[int, ...]) -> tuple[int, ...]:
    """Give the chosen candidates places so that beams which survive stay where they are.

    `parents[c]` is the beam that candidate c continues, best candidate first. Returns for each
    place the candidate it gets: a surviving beam's place gets its best candidate, the places of
    beams that ended get the others. Only the latter need their cache replaced.
    """
    order: list[int] = [-1] * len(parents)
    others: list[int] = []
    for candidate, parent in enumerate(parents):
        if order[parent] < 0:
            order[parent] = candidate
        else:
            others.append(candidate)
    rest = iter(others)
    return tuple(candidate if candidate >= 0 else next(rest) for candidate in order)
