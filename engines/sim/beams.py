"""Beam search without a model: a random process with one parameter decides which beams survive."""

from __future__ import annotations

import numpy as np

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.executor import Fork
from engines.core.request import SequenceGroup, Status
from engines.core.subclassing import mypyc_attr

# Calibrated: blocks saved on Alpaca with beam width 6 (paper, Fig. 15b: 55.16 %).
NOVELTY = 11.0
MANY = 16  # searches from which on one call for all is faster than one for each


@mypyc_attr(allow_interpreted_subclasses=True)
class BeamProcess:
    """Draws at which positions beams compete, candidate scores there, and keeps the best.

    The longer a text, the less of it is new; the most likely text in particular repeats itself
    (Holtzman et al., ICLR 2020, section 3). As in the Chinese restaurant process, a one-parameter
    model of how a text's vocabulary grows, the token at position t of an output (from 0) is new
    with probability novelty / (novelty + t). If it is not new, every beam continues, and neither
    scores nor order change. If it is, each of a beam's candidates scores below the previous one by
    an independent exponential step (its unit does not matter), and the best of all beams'
    candidates survive. The larger `novelty`, the more recent is the beam from which all others
    descend and whose cache they share.
    """

    def __init__(self, *, novelty: float, seed: int) -> None:
        assert novelty > 0, f"novelty must be positive, got {novelty}"
        self._novelty = novelty
        self._random = np.random.default_rng(seed)
        self._searches: dict[SequenceGroup, _Search] = {}
        self._due: dict[int, list[_Search]] = {}  # by step

    def step(self, batch: Batch) -> list[Fork]:
        """Advance all beams of a batch by one token; returns groups in which one was replaced."""
        for sequence in batch.left:
            if sequence.group.status is Status.FINISHED:
                self._searches.pop(sequence.group, None)
        for sequence in batch.joined:
            if sequence is sequence.group.running[0] and sequence.group.request.sampling.beam:
                self._join(sequence.group, batch.step)
        due = self._due.pop(batch.step, None)
        if due is None:
            return []
        by_width: dict[int, list[_Search]] = {}
        for search in due:
            if search.due_step == batch.step and search.group.status is Status.RUNNING:
                by_width.setdefault(len(search.gaps), []).append(search)
        forks: list[Fork] = []
        for searches in by_width.values():
            self._advance(searches, forks)
            self._draw_next(searches, batch.step)
        return forks

    def _join(self, group: SequenceGroup, step: int) -> None:
        position = _position(group, step)
        search = self._searches.get(group)
        if search is None:
            search = self._searches[group] = _Search(group, position)
        self._file(search, step + search.next_open - position)

    def _file(self, search: _Search, step: int) -> None:
        search.due_step = step
        if step <= search.group.last_step:
            self._due.setdefault(step, []).append(search)

    def _draw_next(self, searches: list[_Search], step: int) -> None:
        """Draw the step of each search's next new token, given that there is one at this step.

        After position t, a wait longer than k has the probability that none of t+1 .. t+k is new,
        the product of their i / (novelty + i). Such a wait is geometric with a probability that
        is Beta(novelty, t + 1) distributed.
        """
        beta, geometric = self._random.beta, self._random.geometric
        after = [search.next_open + 1 for search in searches]  # all are due
        if len(searches) < MANY:
            endings = [beta(self._novelty, position) for position in after]
            waits = [geometric(ending) for ending in endings]
        else:  # the same draws
            waits = geometric(beta(self._novelty, np.array(after))).tolist()
        for search, wait in zip(searches, waits, strict=True):
            search.next_open += wait
            self._file(search, step + wait)

    def _advance(self, searches: list[_Search], forks: list[Fork]) -> None:
        """Advance searches of equal width by one new token, all at once."""
        count, width = len(searches), len(searches[0].gaps)
        unmoved = tuple(range(width))
        gaps = self._random.standard_exponential((count, width, width)).cumsum(axis=2)
        gaps += np.array([search.gaps for search in searches])[:, :, None]
        flat = gaps.reshape(count, width * width)
        best = flat.argsort(axis=1, kind="stable")[:, :width]
        flat.sort(axis=1)
        kept = flat[:, :width] - flat[:, :1]  # only differences matter; keeps scores bounded
        rows = zip(searches, (best // width).tolist(), kept.tolist(), strict=True)
        for search, parents, kept_gaps in rows:
            placement = place_children(tuple(parents))
            search.gaps = [kept_gaps[candidate] for candidate in placement.candidates]
            if placement.parents != unmoved:
                forks.append(Fork(search.group, placement.parents))


class _Search:
    """State of one beam search.

    `gaps` are how far each beam's score lies below the best one's; `next_open` is the position of
    the next new token and `due_step` the step that makes it, unless the group is preempted first.
    """

    __slots__ = ("due_step", "gaps", "group", "next_open")

    def __init__(self, group: SequenceGroup, next_open: int) -> None:
        self.group = group
        self.next_open = next_open
        self.due_step = -1
        self.gaps = [0.0] * len(group.running)


def _position(group: SequenceGroup, step: int) -> int:
    """Index in the output of the token that a running group gets in `step`."""
    return group.context_len(step) - group.request.prompt_len
