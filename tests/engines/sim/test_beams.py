"""Beam bookkeeping, and the recorded searches that stand in for a model."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import drive, make_config, make_engine, make_profile, make_request, make_sim

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.engine import Engine
from engines.core.executor import Fork
from engines.core.request import Request, SequenceGroup
from engines.sim.beams import BeamProcess, Recording, recording, searches_of

WIDTHS = st.integers(1, 8)


@st.composite
def chosen_parents(draw: st.DrawFn) -> list[int]:
    width = draw(WIDTHS)
    return draw(st.lists(st.integers(0, width - 1), min_size=width, max_size=width))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(chosen_parents())
def test_place_children(parents: list[int]) -> None:
    """Every candidate gets one place, and a beam that survives keeps its own for its best one."""
    order, placed = place_children(tuple(parents))
    assert sorted(order) == list(range(len(parents)))
    assert list(placed) == [parents[candidate] for candidate in order]
    for parent in parents:
        assert placed[parent] == parent
        assert order[parent] == parents.index(parent), "the place is not its best candidate's"
    ended = [place for place in range(len(parents)) if place not in parents]
    rest = [order[place] for place in ended]
    assert rest == sorted(rest), "the other places are not given in order of score"


class Watched(BeamProcess):
    """A process that keeps what it returned, by step, and may be told which recording to play."""

    def __init__(self, *, seed: int = 0, plays: Recording | None = None) -> None:
        super().__init__(seed=seed)
        self.steps: list[list[Fork]] = []
        self._plays = plays

    def choose(self, width: int) -> Recording:
        return super().choose(width) if self._plays is None else self._plays

    def step(self, batch: Batch) -> list[Fork]:
        forks = super().step(batch)
        self.steps.append(forks)
        return forks

    @property
    def parents(self) -> list[list[tuple[int, ...]]]:
        return [[fork.parents for fork in forks] for forks in self.steps]


def search(
    process: BeamProcess, requests: list[Request], *, num_slots: int = 1 << 16
) -> tuple[Engine, list[SequenceGroup]]:
    """Serve beam searches by the simulation; integrity is checked in the end."""
    config = make_config(num_slots=num_slots, max_model_len=4096, watermark=0.0,
                         max_batched_tokens=1 << 16)  # fmt: skip
    sim = make_sim(config, make_profile(step_overhead_s=1.0))
    sim._beams = process
    engine = make_engine(config, sim)
    groups = drive(engine, requests, max_steps=20_000)
    engine.scheduler.kv.check_integrity()
    return engine, groups


def saving_pct(plays: Recording, width: int, *, prompt: int, steps: int) -> float:
    """Blocks of 16 tokens that a search's beams share over its first steps, in percent."""
    config = make_config(
        num_slots=1 << 16, block_size=16, max_model_len=4096, max_batched_tokens=1 << 16
    )
    sim = make_sim(config, make_profile(step_overhead_s=1.0))
    sim._beams = Watched(plays=plays)
    engine = make_engine(config, sim)
    group = engine.add_request(make_request(0, prompt, steps + 1, sampling=f"beam{width}"))
    total = different = 0
    for _ in range(steps):
        engine.step()
        tables = [sequence.table for sequence in group.running]
        total += sum(map(len, tables))
        different += len(set().union(*tables))
    return 100 * (1 - different / total)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_a_played_search_shares_the_blocks_that_the_model_s_shared(width: int) -> None:
    """The savings beside the recordings were counted while the model ran."""
    rows = [row for row in searches_of(width) if row.tokens > 338]
    assert len(rows) >= 10
    for number, row in enumerate(rows[:6]):
        for steps, measured in ((58, row.saved_58_pct), (338, row.saved_338_pct)):
            found = saving_pct(recording(width, number), width, prompt=row.prompt_len, steps=steps)
            assert found == pytest.approx(measured, abs=0.001)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_a_second_half_that_is_repeated_shares_as_much_as_what_followed(width: int) -> None:
    """Recordings cut at half their length and played on, against what was recorded there."""
    cut, whole = [], []
    for number, row in enumerate(searches_of(width)):
        played = recording(width, number)
        half = (row.tokens - 1) // 2
        early = [p for p in played.positions if p < half]
        shorter = Recording(early, played.parents[: len(early)], half)
        for plays, savings in ((shorter, cut), (played, whole)):
            savings.append(saving_pct(plays, width, prompt=row.prompt_len, steps=row.tokens - 2))
    assert mean(cut) == pytest.approx(mean(whole), abs=2.0)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6, 7, 8, 13])
def test_recordings_of_every_width_are_forks(width: int) -> None:
    for number in range(len(searches_of(width))):
        played = recording(width, number)
        assert all(a < b for a, b in pairwise([0, *played.positions]))
        for parents in played.parents:
            assert len(parents) == width
            assert parents != tuple(range(width)), "nothing is replaced"
            assert all(parents[parent] == parent for parent in parents), "a survivor was moved"


def test_a_width_that_was_not_recorded_borrows_from_another() -> None:
    six = recording(6, 0)
    five = [tuple(p if p < 5 else i for i, p in enumerate(each[:5])) for each in six.parents]
    assert recording(5, 0).parents == [each for each in five if each != (0, 1, 2, 3, 4)]
    twelve = [each + tuple(6 + p for p in each) for each in six.parents]
    assert recording(12, 0).parents == twelve
    assert recording(12, 0).positions == six.positions


def test_a_search_follows_its_recording() -> None:
    plays = Recording([1, 4, 5, 9], [(0, 0), (1, 1), (0, 0), (1, 1)], 10)
    process = Watched(plays=plays)
    search(process, [make_request(0, 4, 24, sampling="beam2")])
    forks = {i: parents[0] for i, parents in enumerate(process.parents) if parents}
    again = {10: (0, 0), 14: (1, 1), 15: (0, 0), 19: (1, 1), 20: (0, 0)}
    # The second half, 5 to 9, comes again and again; the last token replaces nothing.
    assert forks == {1: (0, 0), 4: (1, 1), 5: (0, 0), 9: (1, 1)} | again


def test_a_search_that_repeats_itself_stays_as_it_is() -> None:
    process = Watched(plays=Recording([1, 3], [(0, 0), (1, 1)], 10))
    search(process, [make_request(0, 4, 200, sampling="beam2")])
    assert [i for i, forks in enumerate(process.steps) if forks] == [1, 3]
    empty = Watched(plays=Recording([], [], 10))
    search(empty, [make_request(0, 4, 50, sampling="beam2")])
    assert not any(empty.steps)


def test_same_seed_same_beams() -> None:
    """The process is determined by its seed."""
    runs = []
    for seed in (3, 3, 4):
        process = Watched(seed=seed)
        search(process, [make_request(i, 4, 20, sampling="beam4") for i in range(8)])
        runs.append(process.parents)
    assert runs[0] == runs[1] != runs[2]


def test_all_recordings_are_drawn_alike() -> None:
    process = BeamProcess(seed=0)
    drawn = Counter(process.choose(6) for _ in range(200 * len(searches_of(6))))
    assert len(drawn) == len(searches_of(6))
    assert min(drawn.values()) > 140
    assert max(drawn.values()) < 260


def test_groups_of_several_widths_advance_together() -> None:
    """Each fork names its own group and has that group's width."""
    process = Watched()
    names = ("beam2", "n3", "beam4", "beam4", "beam6")
    search(process, [make_request(i, 4, 60, sampling=name) for i, name in enumerate(names)])
    forks = [fork for forks in process.steps for fork in forks]
    assert {fork.group.request.request_id for fork in forks} == {0, 2, 3, 4}
    widths = {fork.group.request.request_id: len(fork.parents) for fork in forks}
    assert widths == {0: 2, 2: 4, 3: 4, 4: 6}


def test_state_is_dropped_at_the_end() -> None:
    """A group that only left the batch goes on where it was; one that ended is forgotten."""
    process = BeamProcess(seed=0)
    requests = [make_request(i, 6, 20, sampling="beam3", arrival_s=2.0 * i) for i in range(12)]
    last = make_request(99, 2, 2, arrival_s=1e6)  # an executor hears of the end in the next step
    engine, groups = search(process, [*requests, last], num_slots=128)
    assert engine.scheduler.num_preemptions > 0
    assert len(groups) == 13
    assert not process._searches
    assert not process._due


def test_every_fork_of_a_preempted_search_is_made_once() -> None:
    """Preempted or not, a search makes its recording's forks in their order."""
    plays = Recording(list(range(1, 20)), [(0, 0, 2), (1, 1, 2)] * 9 + [(0, 1, 0)], 20)
    process = Watched(plays=plays)
    requests = [make_request(i, 6, 20, sampling="beam3") for i in range(4)]
    engine, _ = search(process, requests, num_slots=128)
    assert engine.scheduler.num_preemptions > 0
    made: dict[int, list[tuple[int, ...]]] = {}
    for fork in (fork for forks in process.steps for fork in forks):
        made.setdefault(fork.group.request.request_id, []).append(fork.parents)
    assert made == dict.fromkeys(range(4), plays.parents)


def test_wider_searches_share_more() -> None:
    """Of more beams a smaller part is distinct."""
    savings = [mean(row.saved_338_pct for row in searches_of(width)) for width in (2, 4, 6)]
    assert savings == sorted(savings)
