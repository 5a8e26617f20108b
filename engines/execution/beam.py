"""Beam search without a model: which beams survive, from a random process of one parameter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.executor import Fork
from engines.core.request import SequenceGroup, Status

# Calibrated: blocks saved on Alpaca with beam width 6 (paper, Fig. 15b: 55.16 %).
NOVELTY = 11.0


class BeamProcess:
    """Draws which tokens are open, candidate scores for these, and keeps the best.

    A text that goes on brings ever less that is new; most likely text above all repeats itself
    (Holtzman et al., ICLR 2020, section 3). As in the Chinese restaurant process, the model of the
    growth of a text's vocabulary with one parameter, the token at position t of an output (from 0)
    is new with probability novelty / (novelty + t). Where it is not, every beam continues with
    certainty: neither scores nor order change. Where it is, a beam's candidates lie below it and
    one another by independent exponential steps (their unit does not matter), and the best of all
    beams' candidates survive. The larger `novelty`, the sooner all beams descend from one that is
    recent, and share its cache.
    """

    def __init__(self, *, novelty: float, seed: int) -> None:
        assert novelty > 0, f"novelty must be positive, got {novelty}"
        self._novelty = novelty
        self._random = np.random.default_rng(seed)
        self._scores: dict[int, NDArray[np.float64]] = {}  # by request id
        self._next_open: dict[int, int] = {}  # position of the next new token, by request id
        self._due: dict[int, list[SequenceGroup]] = {}  # by step

    def step(self, batch: Batch) -> list[Fork]:
        """Advance all beams of a batch by one token; returns groups in which one was replaced."""
        for sequence in batch.left:
            if sequence.group.status is Status.FINISHED:
                self._forget(sequence.group)
        for sequence in batch.joined:
            if sequence is sequence.group.running[0] and sequence.group.request.sampling.beam:
                self._file(sequence.group, batch.step)
        due = self._due.pop(batch.step, None)
        if due is None:
            return []
        by_width: dict[int, list[SequenceGroup]] = {}
        for group in due:
            if self._is_due(group, batch.step):
                by_width.setdefault(len(group.running), []).append(group)
        forks: list[Fork] = []
        for groups in by_width.values():
            self._advance(groups, forks)
            self._draw_next(groups, batch.step)
        return forks

    def _is_due(self, group: SequenceGroup, step: int) -> bool:
        """An entry is void if its group was preempted or has finished since."""
        return group.status is Status.RUNNING and self._next_open.get(
            group.request.request_id
        ) == _position(group, step)

    def _file(self, group: SequenceGroup, step: int) -> None:
        position = _position(group, step)
        wait = self._next_open.setdefault(group.request.request_id, position) - position
        if step + wait <= group.last_step:
            self._due.setdefault(step + wait, []).append(group)

    def _draw_next(self, groups: list[SequenceGroup], step: int) -> None:
        """Draw when each group's next new token comes, given one at this step.

        After position t, a wait longer than k has the probability that none of t+1 .. t+k is new,
        the product of their i / (novelty + i). Such a wait is geometric with a probability that
        is Beta(novelty, t + 1) distributed.
        """
        ids = [group.request.request_id for group in groups]
        positions = np.array([self._next_open[i] for i in ids])  # they are due
        waits = self._random.geometric(self._random.beta(self._novelty, positions + 1)).tolist()
        for group, i, wait in zip(groups, ids, waits, strict=True):
            self._next_open[i] += wait
            if step + wait <= group.last_step:
                self._due.setdefault(step + wait, []).append(group)

    def _forget(self, group: SequenceGroup) -> None:
        self._scores.pop(group.request.request_id, None)
        self._next_open.pop(group.request.request_id, None)

    def _advance(self, groups: list[SequenceGroup], forks: list[Fork]) -> None:
        """One new token for groups of one width, all at once."""
        width = len(groups[0].running)
        ids = [g.request.request_id for g in groups]
        fresh = np.zeros(width)
        scores = np.stack([self._scores.get(i, fresh) for i in ids])
        steps = self._random.exponential(1.0, (len(ids), width, width))
        flat = (scores[:, :, None] - steps.cumsum(axis=2)).reshape(len(ids), width * width)
        best = np.argsort(-flat, axis=1, kind="stable")[:, :width]
        kept = np.take_along_axis(flat, best, axis=1)
        kept -= kept[:, :1]  # only differences matter; keeps scores bounded
        parents = best // width
        placed = np.empty_like(kept)  # right wherever every beam survives; then order is parents
        np.put_along_axis(placed, parents, kept, axis=1)
        for row, chosen in enumerate(parents.tolist()):
            if len(set(chosen)) < width:
                order = place_children(chosen)
                placed[row] = kept[row, order]
                forks.append(Fork(groups[row], [chosen[candidate] for candidate in order]))
        self._scores.update(zip(ids, placed, strict=True))


def _position(group: SequenceGroup, step: int) -> int:
    """Index in the output of the token that a running group gets in `step`."""
    return group.context_len(step) - group.request.prompt_len
