"""Astra's shortcut over groups to which nothing happens equals the original's loop over all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import drive, make_config, make_engine, make_request

from engines.astra.block_manager import BlockManager
from engines.astra.scheduler import AstraScheduler
from engines.core.batch import Batch
from engines.core.config import EngineConfig
from engines.core.engine import Engine
from engines.core.executor import StepResult
from engines.core.request import Request, SequenceGroup


class LiteralScheduler(AstraScheduler):
    """Asks every running group in every step whether it could append, as the original does.

    The first waiting group is tried in every step, too.
    """

    def schedule(self, step: int) -> Batch:
        self._may_fit = True
        return super().schedule(step)

    def _reserve_slots(self, step: int) -> None:
        index = 0
        while index < len(self.running):
            group = self.running[index]
            if not self.kv.can_append(group):
                self._preempt(self.running[-1], step)
                continue
            self.kv.append(group, group.context_len(step), self.batch)
            index += 1


class Record:
    """An executor that notes what runs, is swapped and preempted in every step of 1 s."""

    def __init__(self) -> None:
        self.scheduler: AstraScheduler | None = None
        self.steps: list[Any] = []

    def execute(self, batch: Batch) -> StepResult:
        assert self.scheduler is not None
        # Which free block a sequence gets may differ; who shares with whom may not.
        names: dict[int, int] = {}
        running = [
            (group.request.request_id, [names.setdefault(b, len(names)) for b in sequence.table])
            for group in self.scheduler.running
            for sequence in group.running
        ]
        left = [(s.group.request.request_id, s.index) for s in batch.left]
        changes = (left, len(batch.swap_in), len(batch.swap_out), len(batch.copies))
        self.steps.append((running, changes, self.scheduler.num_preemptions))
        return StepResult(1.0, [], [])


def run(
    config: EngineConfig, requests: list[Request], *, literal: bool
) -> tuple[list[Any], list[Any], int]:
    """All steps, all finishes in order, and the number of preemptions."""
    record = Record()
    engine: Engine = make_engine(config, record)
    scheduler = engine.scheduler
    assert isinstance(scheduler, AstraScheduler)
    if literal:
        scheduler = LiteralScheduler(config, scheduler.kv)
        engine.scheduler = scheduler
    record.scheduler = scheduler
    finished = drive(engine, requests, max_steps=100_000)
    ends = [(g.request.request_id, g.first_token_s, g.finish_s) for g in finished]
    return record.steps, ends, scheduler.num_preemptions


def overload(
    *, seed: int, count: int, samplings: tuple[str, ...], mean_gap_s: float
) -> list[Request]:
    """Requests that outgrow 256 slots many times over."""
    random = np.random.default_rng(seed)
    arrivals = np.floor(random.exponential(mean_gap_s, count).cumsum())
    return [
        make_request(
            index,
            int(random.integers(1, 30)),
            int(random.integers(1, 34)),
            arrival_s=float(arrival_s),
            sampling=str(random.choice(samplings)),
        )
        for index, arrival_s in enumerate(arrivals)
    ]


@pytest.mark.parametrize("samplings", [("n1",), ("n1", "n2", "n3"), ("n4",)])
@pytest.mark.parametrize("preemption", ["auto", "swap"])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_equals_the_literal_loop(
    samplings: tuple[str, ...], preemption: str, block_size: int
) -> None:
    """Under overload both make the same steps, copies, swaps, preemptions and finishes."""
    config = make_config(num_slots=400, block_size=block_size, preemption=preemption)
    requests = overload(seed=block_size, count=120, samplings=samplings, mean_gap_s=0.5)
    fast = run(config, requests, literal=False)
    assert fast == run(config, requests, literal=True)
    assert fast[2] > 5, "the trace does not overload the cache"


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_slots=st.integers(260, 500),
    block_size=st.sampled_from([1, 2, 3, 8, 16]),
    watermark=st.sampled_from([0.0, 0.05]),
    preemption=st.sampled_from(["auto", "swap"]),
)
def test_equals_the_literal_loop_on_random_traces(
    seed: int, num_slots: int, block_size: int, watermark: float, preemption: str
) -> None:
    """The same on many small traces of mixed groups."""
    config = make_config(
        num_slots=num_slots, block_size=block_size, watermark=watermark, preemption=preemption
    )
    requests = overload(seed=seed, count=25, samplings=("n1", "n1", "n3"), mean_gap_s=1.0)
    assert run(config, requests, literal=False) == run(config, requests, literal=True)


def test_an_undisturbed_decode_step_visits_no_group() -> None:
    """The point of the shortcut: with room to spare only groups that cross a boundary append."""
    config = make_config(num_slots=4096, block_size=16)
    engine = make_engine(config)
    visited: list[SequenceGroup] = []

    class Counting(BlockManager):
        def grow(self, groups: Iterable[SequenceGroup], batch: Batch) -> None:
            visited.extend(groups)
            super().grow(groups, batch)

    engine.scheduler = AstraScheduler(config, Counting(config))
    drive(engine, [make_request(i, 8, 40) for i in range(20)], max_steps=40)
    # 8 + 39 tokens are cached: the blocks of tokens 17 and 33 are taken on the way.
    assert len(visited) == 2 * 20
