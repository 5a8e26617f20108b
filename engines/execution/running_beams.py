"""The beam searches of a running batch: their candidates on the device, their rows on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Batch
from engines.core.executor import Fork
from engines.core.request import Sequence as Output
from engines.core.request import SequenceGroup
from engines.execution.beam_search import Advance, BeamSearch, Candidate, best_candidates
from engines.execution.kv_cache import KVCache
from engines.execution.rows import Rows
from engines.execution.transfer import send
from engines.models.interfaces import Communicator


@dataclass
class Outcome:
    """What a step decides about sequences."""

    forks: list[Fork] = field(default_factory=list)
    stopped: list[Output] = field(default_factory=list)


@dataclass(frozen=True)
class Ranked:
    """The best continuations of beam searches, on the device."""

    groups: list[SequenceGroup]
    scores: Tensor  # [groups, candidates], best first
    places: Tensor  # [groups, candidates], beam * vocabulary + token


class RunningBeams:
    """What each search of the batch knows, and how its beams' rows follow."""

    def __init__(
        self, rows: Rows, cache: KVCache, communicator: Communicator, eos: NDArray[np.int64]
    ) -> None:
        self._rows = rows
        self._cache = cache
        self._communicator = communicator
        self._eos = frozenset(eos.tolist())
        self._searches: dict[int, BeamSearch] = {}  # by request id

    def forget(self, group: SequenceGroup) -> None:
        """A group is finished."""
        self._searches.pop(group.request.request_id, None)

    def rank(self, batch: Batch, logits: Tensor, source: NDArray[np.int64]) -> list[Ranked]:
        """Each search's best continuations, found together for searches of one shape."""
        shapes: dict[tuple[int, int], list[SequenceGroup]] = {}
        for group in batch.beam_groups.values():
            search = self._search_of(group)
            if not search.done:
                shape = (len(search.scores), search.num_candidates)
                shapes.setdefault(shape, []).append(group)
        ranked = []
        for (width, count), groups in shapes.items():
            places = [self._rows.row_of(s) for g in groups for s in g.running[:width]]
            index = send(source[places], logits.device)
            scores = np.array([self._search_of(g).scores for g in groups], dtype=np.float32)
            values, flat = best_candidates(
                logits[index].view(len(groups), width, -1), send(scores, logits.device), count
            )
            agree = self._communicator.agree
            ranked.append(Ranked(groups, agree(values), agree(flat)))
        return ranked

    def _search_of(self, group: SequenceGroup) -> BeamSearch:
        request = group.request
        if request.request_id not in self._searches:
            eos = frozenset[int]() if request.sampling.ignore_eos else self._eos
            self._searches[request.request_id] = BeamSearch(request.sampling.n, eos)
        return self._searches[request.request_id]

    def advance(
        self, group: SequenceGroup, candidates: Sequence[Candidate], outcome: Outcome
    ) -> list[Output]:
        """Let a search take a step's candidates; returns its sequences if it is over."""
        rows, search = self._rows, self._searches[group.request.request_id]
        places = [rows.row_of(sequence) for sequence in group.running]
        length = int(rows.num_outputs[places[0]])  # the token being chosen included
        advance = search.advance(
            candidates,
            lambda beam: rows.output_of(places[beam])[:-1],
            length=length,
            is_last=length == group.request.output_len,
        )
        if advance is None:
            return self._end(group, places, outcome)
        rows.continue_beams(places, advance.parents, advance.token_ids)
        if length > 1:  # before, all beams hold the same cache
            self._fork(group, places, advance, outcome)
        return []

    def _fork(
        self, group: SequenceGroup, places: list[int], advance: Advance, outcome: Outcome
    ) -> None:
        replaced = [i for i, parent in enumerate(advance.parents) if parent != i]
        if replaced:
            sources = [places[advance.parents[i]] for i in replaced]
            self._cache.continue_rows([places[i] for i in replaced], sources)
            outcome.forks.append(Fork(group, advance.parents))

    def _end(self, group: SequenceGroup, places: list[int], outcome: Outcome) -> list[Output]:
        """Hand over the best hypotheses, best first."""
        finished = self._searches[group.request.request_id].finished
        for sequence, hypothesis in zip(group.sequences, finished, strict=True):
            sequence.output_token_ids = hypothesis.token_ids
            sequence.cumulative_logprob = hypothesis.logprob
        rows = self._rows
        if rows.num_outputs[places[0]] < rows.max_outputs[places[0]]:
            outcome.stopped.extend(group.running)
        rows.max_outputs[places] = rows.num_outputs[places]
        return group.sequences
