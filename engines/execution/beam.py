"""Beam search without a model: which beams survive, from a random process of one parameter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.core.beams import place_children
from engines.core.executor import Fork
from engines.core.request import SequenceGroup


class BeamProcess:
    """Draws candidate scores for every beam and keeps the best.

    A beam's candidates lie below one another by independent exponential steps of mean 1; the best
    one lies a step of mean `peakedness` below its beam. Only ratios matter, so this is the one
    parameter: the larger it is, the more the differences between beams outweigh those within, the
    sooner all beams descend from one and share its cache.
    """

    def __init__(self, *, peakedness: float, seed: int) -> None:
        assert peakedness > 0, f"peakedness must be positive, got {peakedness}"
        self._peakedness = peakedness
        self._random = np.random.default_rng(seed)
        self._scores: dict[int, NDArray[np.float64]] = {}

    def step(self, groups: list[SequenceGroup]) -> list[Fork]:
        """Advance every group by one token; returns those in which a beam was replaced."""
        by_width: dict[int, list[SequenceGroup]] = {}
        for group in groups:
            by_width.setdefault(len(group.running), []).append(group)
        return [fork for width, some in by_width.items() for fork in self._advance(some, width)]

    def forget(self, group: SequenceGroup) -> None:
        """Drop a finished group's scores."""
        self._scores.pop(group.request.request_id, None)

    def _advance(self, groups: list[SequenceGroup], width: int) -> list[Fork]:
        ids = [g.request.request_id for g in groups]
        scores = np.stack([self._scores.get(i, np.zeros(width)) for i in ids])
        steps = self._random.exponential(1.0, (len(ids), width, width))
        steps[:, :, 0] *= self._peakedness
        candidates = scores[:, :, None] - steps.cumsum(axis=2)
        flat = candidates.reshape(len(ids), width * width)
        best = np.argsort(-flat, axis=1, kind="stable")[:, :width]
        kept = np.take_along_axis(flat, best, axis=1)
        kept -= kept[:, :1]  # only differences matter; keeps scores bounded
        forks = []
        for row, group in enumerate(groups):
            parents = (best[row] // width).tolist()
            order = place_children(parents)
            self._scores[ids[row]] = kept[row, order]
            placed = [parents[candidate] for candidate in order]
            if any(parent != place for place, parent in enumerate(placed)):
                forks.append(Fork(group, placed))
        return forks
