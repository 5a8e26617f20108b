"""Beam search without a model: searches that a real model made, played back.

Which beams survive was recorded while SmolLM2-135M searched with 2, 4 and 6 beams
(`tools/record_beams.py`). A simulated search follows one of the recordings with its width, drawn at
random, from its first token on.
"""

from __future__ import annotations

import gzip
import random
from bisect import bisect_left
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

from engines.core.batch import Batch
from engines.core.executor import Fork
from engines.core.request import SequenceGroup, Status
from engines.core.subclassing import mypyc_attr

NEVER = 1 << 60


class Recording:
    """One recorded search: where in the output beams were replaced, and by which.

    At `positions[i]` (from 0) the beam in place j continued the one in place `parents[i][j]`. A
    search that is longer than the recording repeats the recording's second half, `period` tokens:
    what a text does there, above all whether it repeats itself, it goes on doing.
    """

    def __init__(self, positions: list[int], parents: list[tuple[int, ...]], length: int) -> None:
        self.positions = positions
        self.parents = parents
        self.period = length - length // 2
        self.second_half = bisect_left(positions, length // 2)  # the index of its first fork


class Row(NamedTuple):
    """A line of the recordings: lengths in tokens, blocks saved over 58 and over 338 steps."""

    prompt_len: int
    tokens: int
    saved_58_pct: float
    saved_338_pct: float
    forks: str


@lru_cache(maxsize=1)
def _rows() -> dict[int, list[Row]]:
    """The recordings by width."""
    file = resources.files("engines.sim") / "data" / "beams.csv.gz"
    found: dict[int, list[Row]] = {}
    for line in gzip.decompress(file.read_bytes()).decode().splitlines():
        if not line.startswith("#"):
            width, prompt_len, tokens, short, long, forks = line.split(",")
            row = Row(int(prompt_len), int(tokens), float(short), float(long), forks)
            found.setdefault(int(width), []).append(row)
    return found


def searches_of(width: int) -> list[Row]:
    """What searches of a width play: its own recordings, the next wider one's, or the widest's."""
    recorded = sorted(_rows())
    return _rows()[next((each for each in recorded if each >= width), recorded[-1])]


@cache
def recording(width: int, number: int) -> Recording:
    """A recording by its number, for searches of any width."""
    return read_forks(searches_of(width)[number], width)


def read_forks(row: Row, width: int) -> Recording:
    """What a search of any width plays of a recorded one.

    Of a wider search these are the first places; of a narrower one, as many side by side as there
    is room for.
    """
    unmoved = tuple(range(width))
    position = 0
    positions: list[int] = []
    parents: list[tuple[int, ...]] = []
    for word in row.forks.split():
        gap, _, places = word.rpartition(":")
        position += int(gap or 1)
        chosen = _fit([int(place) for place in places], width)
        if chosen != unmoved:
            positions.append(position)
            parents.append(chosen)
    return Recording(positions, parents, row.tokens - 1)  # the last token replaces no beam


def _fit(parents: list[int], width: int) -> tuple[int, ...]:
    """The parents of `width` places, by those that were recorded for more or fewer."""
    recorded = len(parents)
    placed = [i - i % recorded + parents[i % recorded] for i in range(width)]
    return tuple(parent if parent < width else i for i, parent in enumerate(placed))


@mypyc_attr(allow_interpreted_subclasses=True)
class BeamProcess:
    """Plays back a recorded search for each request, drawn with a seed."""

    def __init__(self, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._searches: dict[SequenceGroup, Search] = {}
        self._due: dict[int, list[Search]] = {}  # by step

    def step(self, batch: Batch) -> list[Fork]:
        """Advance all beams of a batch by one token; returns groups in which one was replaced."""
        for sequence in batch.left:
            if sequence.group.status is Status.FINISHED:
                self._searches.pop(sequence.group, None)
        for sequence in batch.joined:
            if sequence is sequence.group.running[0] and sequence.group.request.sampling.beam:
                self._join(sequence.group, batch.step)
        forks: list[Fork] = []
        for search in self._due.pop(batch.step, ()):
            if search.due_step == batch.step and search.group.status is Status.RUNNING:
                forks.append(Fork(search.group, search.recording.parents[search.next]))
                position = search.position
                search.advance()
                self._file(search, batch.step + search.position - position)
        return forks

    def choose(self, width: int) -> Recording:
        """Draw the recording that a new search plays."""
        return recording(width, self._random.randrange(len(searches_of(width))))

    def _join(self, group: SequenceGroup, step: int) -> None:
        search = self._searches.get(group)
        if search is None:
            search = self._searches[group] = Search(group, self.choose(len(group.running)))
        position = group.context_len(step) - group.request.prompt_len
        self._file(search, step + search.position - position)

    def _file(self, search: Search, step: int) -> None:
        search.due_step = step
        if step <= search.group.last_step:
            self._due.setdefault(step, []).append(search)


class Search:
    """Where a simulated search is in its recording.

    `next` is the index of its next fork, `position` that fork's in the output, and `due_step` the
    step that makes it, unless the group is preempted first.
    """

    def __init__(self, group: SequenceGroup, recording: Recording) -> None:
        self.group = group
        self.recording = recording
        self.due_step = -1
        self.next = -1
        self.position = 0
        self._passed = 0  # tokens that repeated parts took
        self.advance()

    def advance(self) -> None:
        """Go on to the next fork."""
        recording = self.recording
        self.next += 1
        if self.next == len(recording.positions):
            self.next = recording.second_half
            self._passed += recording.period
        if self.next == len(recording.positions):
            self.position = NEVER
        else:
            self.position = recording.positions[self.next] + self._passed
