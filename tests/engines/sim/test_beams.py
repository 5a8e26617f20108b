"""Beam bookkeeping, and the random process that stands in for a model's scores."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import drive, make_config, make_engine, make_profile, make_request, make_sim

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.engine import Engine
from engines.core.executor import Fork
from engines.core.request import Request, SequenceGroup
from engines.sim.beams import NOVELTY, BeamProcess, _Search

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
    """A process that keeps what it returned, by step."""

    def __init__(self, *, novelty: float, seed: int) -> None:
        super().__init__(novelty=novelty, seed=seed)
        self.steps: list[list[Fork]] = []

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


@pytest.mark.parametrize("width", [2, 4, 6])
def test_survivors_keep_their_places(width: int) -> None:
    """Only steps in which a beam was replaced are reported."""
    process = Watched(novelty=20.0, seed=0)
    search(process, [make_request(0, 4, 400, sampling=f"beam{width}")])
    assert len(process.steps) == 400
    forks = [fork for forks in process.steps for fork in forks]
    assert 0 < len(forks) < 400
    for fork in forks:
        assert fork.parents != tuple(range(width))
        assert all(fork.parents[parent] == parent for parent in fork.parents)


def test_same_seed_same_beams() -> None:
    """The process is determined by its seed."""
    runs = []
    for seed in (3, 3, 4):
        process = Watched(novelty=10.0, seed=seed)
        search(process, [make_request(0, 4, 100, sampling="beam4")])
        runs.append(process.parents)
    assert runs[0] == runs[1] != runs[2]


def test_groups_of_several_widths_advance_together() -> None:
    """Each fork names its own group and has that group's width."""
    process = Watched(novelty=10.0, seed=0)
    names = ("beam2", "n3", "beam4", "beam4", "beam6")
    search(process, [make_request(i, 4, 60, sampling=name) for i, name in enumerate(names)])
    forks = [fork for forks in process.steps for fork in forks]
    assert {fork.group.request.request_id for fork in forks} == {0, 2, 3, 4}
    widths = {fork.group.request.request_id: len(fork.parents) for fork in forks}
    assert widths == {0: 2, 2: 4, 3: 4, 4: 6}


def mean_saving_pct(novelty: float, width: int) -> float:
    """Mean share of blocks saved while ten searches run."""
    requests = [make_request(i, 8, 150, sampling=f"beam{width}") for i in range(10)]
    engine, _ = search(BeamProcess(novelty=novelty, seed=0), requests)
    means = engine.recorder.means(1 << 16)
    assert means is not None
    return means.sharing_saving_pct


@pytest.mark.parametrize("width", [2, 4])
def test_the_parameter_decides_how_much_is_shared(width: int) -> None:
    """The more is new in a text, the sooner all beams descend from a recent one."""
    savings = [mean_saving_pct(novelty, width) for novelty in (0.5, 4.0, 32.0)]
    assert savings == sorted(savings)
    assert savings[2] > savings[0] + 5


def test_wider_searches_share_more() -> None:
    """Of more beams a smaller part is distinct."""
    savings = [mean_saving_pct(NOVELTY, width) for width in (2, 4, 6)]
    assert savings == sorted(savings)


@pytest.mark.parametrize("novelty", [1.0, 1e6])
def test_scores_stay_bounded(novelty: float) -> None:
    """Only differences are kept, so ten thousand tokens lose no precision."""
    process = BeamProcess(novelty=novelty, seed=0)
    config = make_config(
        num_slots=1 << 16, block_size=256, max_model_len=20_000, max_batched_tokens=20_000
    )
    sim = make_sim(config, make_profile(step_overhead_s=1.0))
    sim._beams = process
    engine = make_engine(config, sim)
    group = engine.add_request(make_request(0, 4, 10_000, sampling="beam2"))
    widest = 0.0
    for _ in range(9999):
        engine.step()
        gaps = process._searches[group].gaps
        assert min(gaps) == 0
        widest = max(widest, *gaps)
    assert 0 < widest < 1000


def test_scores_are_kept_while_swapped_out_and_dropped_at_the_end() -> None:
    """A group that only left the batch goes on where it was; one that ended is forgotten."""
    process = BeamProcess(novelty=NOVELTY, seed=0)
    requests = [make_request(i, 6, 20, sampling="beam3", arrival_s=2.0 * i) for i in range(12)]
    last = make_request(99, 2, 2, arrival_s=1e6)  # an executor hears of the end in the next step
    engine, groups = search(process, [*requests, last], num_slots=128)
    assert engine.scheduler.num_preemptions > 0
    assert len(groups) == 13
    assert not process._searches
    assert not process._due


def test_every_new_token_of_a_preempted_search_is_drawn_once() -> None:
    """Where all tokens are new, a search advances once per token, preempted or not."""
    advanced: list[int] = []

    class Noting(BeamProcess):
        def _advance(self, searches: list[_Search], forks: list[Fork]) -> None:
            advanced.extend(search.group.request.request_id for search in searches)
            super()._advance(searches, forks)

    process = Noting(novelty=1e12, seed=0)
    requests = [make_request(i, 6, 20, sampling="beam3") for i in range(4)]
    engine, _ = search(process, requests, num_slots=128)
    assert engine.scheduler.num_preemptions > 0
    assert sorted(advanced) == [i for i in range(4) for _ in range(20)]
