"""Beam search as the original does it: summed log-probabilities, the best candidates of all beams.

Ranking agrees with Hugging Face's `generate(num_beams=k)`: the 2k best candidates of a step are
looked at, those that end a sequence are kept aside with their score divided by their length (length
penalty 1), and the k best of the others go on. Candidates are found on the device, for all searches
of one shape together; the rest is the host's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.errors import UserError
from engines.core.executor import Fork, StepResult
from engines.core.request import SequenceGroup
from engines.execution.kv_cache import KVCache
from engines.execution.rows import Rows
from engines.execution.transfer import send_all
from engines.models.interfaces import Communicator


class Candidate(NamedTuple):
    """A beam continued by a token; `logprob` is of all its tokens."""

    parent: int
    token: int
    logprob: float


class Hypothesis(NamedTuple):
    """A finished output; `score` is what hypotheses are ranked by."""

    score: float
    logprob: float
    token_ids: list[int]


class Ranked(NamedTuple):
    """The best continuations of searches of one shape, on the device."""

    groups: list[SequenceGroup]
    scores: Tensor  # [groups, candidates], best first
    places: Tensor  # [groups, candidates], beam * vocabulary + token


def best_places(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best `count` continuations of each search: their scores, and beam * vocabulary + token.

    logits is [searches, beams, vocabulary], scores of the beams float32 [searches, beams].
    """
    total = logits.float().log_softmax(-1).add_(scores[:, :, None]).flatten(1)
    best = total.topk(min(count, total.shape[1]), dim=1)
    return best.values, best.indices


def _parts(index: Tensor, scores: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All searches at once; on a CPU one for each thread, within memory that malloc keeps."""
    step = torch.get_num_threads() if index.device.type == "cpu" else len(index)
    return zip(torch.split(index, step), torch.split(scores, step), strict=True)


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
    ) -> list[Candidate]:
        """Take a step's candidates, best first; returns the one that each beam's place gets.

        `output_of` gives the tokens of the beam at a place before this step, `length` counts them
        with the candidate's; `is_last` says that all now reach their maximum length. An empty
        result means that the search is over.

        Where fewer tokens can go on than there are beams, copies of the best beam that have no
        probability, and so no candidates, hold the other places.
        """
        candidates = [c for c in candidates if c.logprob != -math.inf]
        for candidate in candidates[: self.width]:
            if is_last or candidate.token in self.eos_token_ids:
                self._finish(candidate, output_of(candidate.parent))
        going_on = [c for c in candidates if c.token not in self.eos_token_ids][: self.width]
        is_full = len(self.finished) == self.width
        if (
            is_last
            or not going_on
            or (is_full and going_on[0].logprob / length <= self.finished[-1].score)
        ):
            self.done = True
            return []
        unused = going_on[0]._replace(logprob=-math.inf)
        going_on += [unused] * (self.width - len(going_on))
        placement = place_children(tuple(c.parent for c in going_on))
        placed = [going_on[i] for i in placement.candidates]
        self.scores = [c.logprob for c in placed]
        return placed

    def _finish(self, candidate: Candidate, output: list[int]) -> None:
        token_ids = [*output, candidate.token]
        score = candidate.logprob / len(token_ids)
        self.finished.append(Hypothesis(score, candidate.logprob, token_ids))
        self.finished.sort(key=lambda h: h.score, reverse=True)
        del self.finished[self.width :]


class RunningBeams:
    """The searches of the running batch, and how their beams' rows follow."""

    def __init__(
        self, rows: Rows, cache: KVCache, communicator: Communicator, eos: frozenset[int]
    ) -> None:
        self._rows = rows
        self._cache = cache
        self._communicator = communicator
        self._eos = eos
        self._searches: dict[int, BeamSearch] = {}  # by request id

    def forget(self, group: SequenceGroup) -> None:
        """A group is finished."""
        self._searches.pop(group.request.request_id, None)

    def rank(self, batch: Batch, logits: Tensor) -> list[Ranked]:
        """Each search's best continuations, from the rows' logits."""
        shapes: dict[tuple[int, int], list[SequenceGroup]] = {}
        for group in batch.beam_groups.values():
            search = self._search_of(group)
            if not search.done:
                shape = (len(search.scores), search.num_candidates)
                shapes.setdefault(shape, []).append(group)
        ranked = []
        for (width, count), groups in shapes.items():
            places = [self._rows.row_of(s) for g in groups for s in g.running[:width]]
            scores = np.array([self._search_of(g).scores for g in groups], dtype=np.float32)
            index, before = send_all((np.array(places), scores), logits.device)
            best = [
                best_places(logits[part], scores, count)
                for part, scores in _parts(index.view(len(groups), width), before)
            ]
            values, indices = (torch.cat(parts) for parts in zip(*best, strict=True))
            agree = self._communicator.agree
            ranked.append(Ranked(groups, agree(values), agree(indices)))
        return ranked

    def advance(self, ranked: Ranked, vocab_size: int, result: StepResult) -> None:
        """Let searches take a step's candidates, fetched to the host; adds what they decide."""
        values = zip(ranked.groups, ranked.scores.tolist(), ranked.places.tolist(), strict=True)
        for group, scores, places in values:
            candidates = [
                Candidate(place // vocab_size, place % vocab_size, score)
                for score, place in zip(scores, places, strict=True)
            ]
            self._advance_one(group, candidates, result)

    def _search_of(self, group: SequenceGroup) -> BeamSearch:
        request = group.request
        if request.request_id not in self._searches:
            eos = frozenset[int]() if request.sampling.ignore_eos else self._eos
            self._searches[request.request_id] = BeamSearch(request.sampling.n, eos)
        return self._searches[request.request_id]

    def _advance_one(
        self, group: SequenceGroup, candidates: list[Candidate], result: StepResult
    ) -> None:
        rows, search = self._rows, self._search_of(group)
        places = [rows.row_of(sequence) for sequence in group.running]
        length = int(rows.num_outputs[places[0]])  # the token being chosen included
        placed = search.advance(
            candidates,
            lambda beam: rows.output_of(places[beam])[:-1],
            length=length,
            is_last=length == group.request.output_len,
        )
        if not placed:
            self._end(group, places, result)
            return
        parents = tuple(c.parent for c in placed)
        rows.continue_beams(places, parents, [c.token for c in placed])
        replaced = [i for i, parent in enumerate(parents) if parent != i]
        if replaced and length > 1:  # before, all beams hold the same cache
            sources = [places[parents[i]] for i in replaced]
            self._cache.continue_rows([places[i] for i in replaced], sources)
            result.forks.append(Fork(group, parents))

    def _end(self, group: SequenceGroup, places: list[int], result: StepResult) -> None:
        """Hand over the best hypotheses, best first; raises UserError if there are too few."""
        search = self._search_of(group)
        if (found := len(search.finished)) < search.width:
            raise UserError(
                f"beam search of width {search.width} has only {found} different outputs to give: "
                "ask for fewer beams, or for more tokens"
            )
        for sequence, best in zip(group.sequences, search.finished, strict=True):
            sequence.output_token_ids = best.token_ids
            sequence.cumulative_logprob = best.logprob
        rows = self._rows
        if rows.num_outputs[places[0]] < rows.max_outputs[places[0]]:
            result.stopped.extend(group.running)
        rows.max_outputs[places] = rows.num_outputs[places]
