"""Beam search as the original does it: summed log-probabilities, the best candidates of all beams.

Ranking agrees with Hugging Face's `generate(num_beams=k)`: the 2k best candidates of a step are
looked at, those that end a sequence are kept aside with their score divided by their length (length
penalty 1), and the k best of the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.core.beams import place_children


@dataclass(frozen=True)
class Candidate:
    """A beam continued by a token; `logprob` is of all its tokens."""

    parent: int
    token: int
    logprob: float


@dataclass(frozen=True)
class Hypothesis:
    """A finished output."""

    token_ids: list[int]
    logprob: float

    @property
    def score(self) -> float:
        """What hypotheses are ranked by."""
        return self.logprob / len(self.token_ids)


@dataclass(frozen=True)
class Advance:
    """The candidate that each beam's place gets: which beam it continues, and its token."""

    parents: tuple[int, ...]
    token_ids: list[int]


@dataclass
class BeamSearch:
    """One request's search.

    `scores` are the beams' log-probabilities by place. `eos_token_ids` end a hypothesis (none where
    the length is forced).
    """

    width: int
    eos_token_ids: frozenset[int]
    scores: list[float] = field(default_factory=lambda: [0.0])
    finished: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    @property
    def num_candidates(self) -> int:
        """How many candidates a step needs, so that `width` of them do not end."""
        return max(2, 1 + len(self.eos_token_ids)) * self.width

    def advance(
        self,
        candidates: Sequence[Candidate],
        output_of: Callable[[int], list[int]],
        *,
        length: int,
        is_last: bool,
    ) -> Advance | None:
        """Take a step's candidates, best first; None when the search is over.

        `output_of` gives the tokens of the beam at a place before this step, `length` counts them
        with the candidate's; `is_last` says that all now reach their maximum length.
        """
        for candidate in candidates[: self.width]:
            if is_last or candidate.token in self.eos_token_ids:
                self._finish(candidate, output_of(candidate.parent))
        going_on = [c for c in candidates if c.token not in self.eos_token_ids][: self.width]
        if is_last or self._cannot_improve(going_on[0].logprob / length):
            self.done = True
            return None
        placement = place_children(tuple(c.parent for c in going_on))
        placed = [going_on[i] for i in placement.candidates]
        self.scores = [c.logprob for c in placed]
        return Advance(placement.parents, [c.token for c in placed])

    def _finish(self, candidate: Candidate, output: list[int]) -> None:
        self.finished.append(Hypothesis([*output, candidate.token], candidate.logprob))
        self.finished.sort(key=lambda h: h.score, reverse=True)
        del self.finished[self.width :]

    def _cannot_improve(self, best_score: float) -> bool:
        worst = self.finished[-1].score if len(self.finished) == self.width else -math.inf
        return best_score <= worst


def best_candidates(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Find the best continuations of each group's beams.

    logits is [groups, beams, vocab], scores float32 [groups, beams]. Returns log-probabilities and
    beam * vocab + token, both [groups, count], best first.
    """
    total = logits.float().log_softmax(-1) + scores[:, :, None]
    flat = total.flatten(1)
    best = torch.topk(flat, min(count, flat.shape[1]), dim=1)
    return best.values, best.indices


def best_first(scores: Tensor, places: Tensor, *, vocab_size: int) -> list[list[Candidate]]:
    """Each group's candidates from what `best_candidates` returned, in host memory."""
    return [
        [
            Candidate(place // vocab_size, place % vocab_size, score)
            for score, place in zip(*one, strict=True)
        ]
        for one in zip(scores.tolist(), places.tolist(), strict=True)
    ]
