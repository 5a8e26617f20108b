"""Whole engines of all systems on small overloaded traces; every step is recounted by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import ORCA, ContentExecutor, drive, make_content_engine, make_request

from engines.astra.block_manager import BlockManager
from engines.astra.scheduler import AstraScheduler
from engines.core.batch import Batch
from engines.core.config import EngineConfig, Preemption, System
from engines.core.engine import Engine
from engines.core.errors import UserError
from engines.core.kv import KVUsage
from engines.core.request import Request, SequenceGroup, Status
from engines.core.scheduler import BY_ARRIVAL
from engines.ft.manager import PaddedManager
from engines.orca.manager import BuddyManager

MAX_LEN = 64
PREFIX_LEN = 9
ROOMY = EngineConfig(system=System.ASTRA, num_slots=256, swap_slots=256, max_model_len=MAX_LEN)
FT = EngineConfig(system=System.FT, num_slots=400, max_model_len=MAX_LEN)
SAMPLINGS = ("n1", "n1", "n2", "n3", "beam2", "beam3")
QUICK = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@dataclass(frozen=True)
class Case:
    config: EngineConfig
    requests: list[Request]
    seed: int


@st.composite
def cases(draw: st.DrawFn, system: System) -> Case:
    """A tiny engine and up to 14 requests that overload it."""
    block_size = draw(st.sampled_from([1, 2, 3, 4, 8, 16, 32]))
    share_prefix = system is System.ASTRA and draw(st.booleans())
    num_slots = draw(st.integers(64, 200))
    config = EngineConfig(
        system=system,
        num_slots=num_slots,
        swap_slots=num_slots,
        block_size=block_size,
        max_batched_tokens=draw(st.sampled_from([48, 64, 256])),
        max_num_seqs=draw(st.sampled_from([4, 8, 64])),
        max_batch_size=draw(st.integers(1, 4)),
        max_model_len=MAX_LEN,
        preemption=draw(st.sampled_from(list(Preemption))),
        share_prefix=share_prefix,
        watermark=draw(st.sampled_from([0.0, 0.01, 0.1])),
    )
    rows = st.tuples(
        st.integers(0, 5), st.integers(1, 24), st.integers(1, 24), st.sampled_from(SAMPLINGS)
    )
    arrival_s, requests = 0.0, []
    for index, (gap, prompt, output, name) in enumerate(draw(st.lists(rows, max_size=14))):
        arrival_s += gap
        sampling = name.replace("beam", "n") if system is System.FT else name
        requests.append(
            make_request(
                index,
                prompt + (PREFIX_LEN if share_prefix else 0),
                output,
                arrival_s=arrival_s,
                sampling=sampling,
                prefix_len=PREFIX_LEN if share_prefix else 0,
            )
        )
    return Case(config, requests, draw(st.integers(0, 1000)))


USES = ("token", "reservation", "internal", "used", "physical_blocks", "logical_blocks")


class Watch:
    """Checks every step of an engine against a recount from the histories alone."""

    def __init__(self, engine: Engine, executor: ContentExecutor, config: EngineConfig) -> None:
        self.scheduler = engine.scheduler
        self.executor = executor
        self.config = config
        self.admitted: list[SequenceGroup] = []
        self.steps: Counter[SequenceGroup] = Counter()
        self.ft_batches: list[list[SequenceGroup]] = []
        self.num_preempted = 0
        executor.observe = self.check

    def check(self, batch: Batch) -> None:
        self.check_totals(batch)
        self.check_limits(batch)
        self.check_order(batch)
        usage = self.scheduler.kv.usage(batch)
        recounted = recount(self.scheduler.kv, self.executor)
        for name in USES:
            assert getattr(usage, name) == getattr(recounted, name), name
        assert usage.token + usage.reservation + usage.internal <= usage.used
        assert usage.used <= self.config.num_slots
        self.scheduler.kv.check_integrity()
        for group in self.scheduler.running:
            self.steps[group] += 1

    def check_totals(self, batch: Batch) -> None:
        groups = self.scheduler.running
        lengths = {s: len(self.executor.histories[s]) for g in groups for s in g.running}
        prompts = {prompt.group for prompt in batch.prompts}
        decodes = [s for s in lengths if s.group not in prompts]
        assert batch.num_seqs == len(lengths)
        assert batch.context_tokens == sum(lengths.values())
        assert batch.num_decodes == len(decodes)
        assert batch.decode_context_tokens == sum(lengths[s] for s in decodes)
        beams = {g.request.request_id: g for g in groups if g.request.sampling.beam}
        assert batch.beam_groups == beams
        assert all(g.status is Status.RUNNING for g in groups)
        assert all(g.context_len(batch.step) == lengths[s] for g in groups for s in g.running)

    def check_limits(self, batch: Batch) -> None:
        assert batch.num_seqs <= self.config.max_num_seqs
        if self.config.system is System.FT:
            assert len(self.scheduler.running) <= self.config.max_batch_size
            return
        tokens = sum(p.num_tokens * p.copies for p in batch.prompts) + batch.num_decodes
        assert tokens <= self.config.max_batched_tokens
        kv = self.scheduler.kv
        if batch.prompts and isinstance(kv, BlockManager):
            assert kv.pool.num_free >= kv.watermark, "admission ignored the watermark"

    def check_order(self, batch: Batch) -> None:
        running = self.scheduler.running
        assert running == sorted(running, key=BY_ARRIVAL)
        waiting = list(self.scheduler.waiting)
        assert waiting == sorted(waiting, key=BY_ARRIVAL)
        preempted = self.scheduler.num_preemptions - self.num_preempted
        self.num_preempted = self.scheduler.num_preemptions
        assert not any(g.preempted_step == batch.step for g in running), "resumed in its step"
        fresh = [p.group for p in batch.prompts if p.group not in self.admitted]
        self.admitted += fresh
        if isinstance(self.scheduler, AstraScheduler):
            assert not (fresh and self.scheduler.swapped), "admitted while a group is swapped out"
            assert not (batch.swap_out and batch.swap_in), "swapped both ways in one step"
        else:
            assert preempted == 0
        if self.config.system is System.FT and batch.prompts:
            assert [p.group for p in batch.prompts] == running, "joined a running batch"
            self.ft_batches.append(running.copy())


def recount(kv: Any, executor: ContentExecutor) -> KVUsage:
    """Slots by use, from the histories and each sequence's place."""
    sequences = [s for group in executor.groups for s in group.running]
    lengths = {s: len(executor.histories[s]) for s in sequences}
    if isinstance(kv, BlockManager):
        kept = [block for prefix in kv._prefixes.values() for block in prefix.blocks]
        fill = dict.fromkeys(kept, kv.block_size)
        for sequence, length in lengths.items():
            for index, block in enumerate(sequence.table):
                filled = min(kv.block_size, length - index * kv.block_size)
                fill[block] = max(fill.get(block, 0), filled)
        used = len(fill) * kv.block_size
        token = sum(fill.values())
        logical = sum(s.num_blocks for s in sequences)
        return KVUsage(token, 0, used - token, used, len(fill), logical)
    requests = [s.group.request for s in sequences]
    final = sum(r.prompt_len + r.output_len for r in requests)
    if isinstance(kv, BuddyManager):
        token = sum(lengths.values())
        reserved = [kv.reserved_len(r) for r in requests]
        used = sum(1 << (size - 1).bit_length() for size in reserved)
        internal = sum(reserved) - final
        return KVUsage(token, final - token, internal, used, len(sequences), len(sequences))
    assert isinstance(kv, PaddedManager)
    longest = max((r.prompt_len for r in requests), default=0)
    token = sum(
        r.prompt_len + min(length - longest, r.output_len)
        for r, length in zip(requests, lengths.values(), strict=True)
    )
    used = kv.row_len * len(sequences)
    return KVUsage(token, final - token, used - final, used, len(sequences), len(sequences))


def serve(case: Case) -> Watch:
    """Serve what the engine accepts; checks every step, and the end."""
    engine, executor = make_content_engine(case.config, seed=case.seed)
    watch = Watch(engine, executor, case.config)
    accepted = []
    for request in case.requests:
        try:
            engine.scheduler.check_request(SequenceGroup(request))
        except UserError:
            continue
        accepted.append(request)
    # The earliest unfinished group runs in every step, so steps cannot outnumber tokens.
    finished = drive(engine, accepted, max_steps=sum(r.output_len for r in accepted))
    check_end(watch, accepted, finished)
    return watch


def check_end(watch: Watch, accepted: list[Request], finished: list[SequenceGroup]) -> None:
    assert sorted(g.request.request_id for g in finished) == [r.request_id for r in accepted]
    assert all(g.status is Status.FINISHED for g in finished)
    order = [group.order for group in watch.admitted]
    assert order == sorted(order), "not first come, first served"
    if watch.config.system is System.FT:
        assert [g for batch in watch.ft_batches for g in batch] == watch.admitted
        for batch in watch.ft_batches:
            longest = max(g.request.output_len for g in batch)
            assert all(watch.steps[g] == longest for g in batch)
            assert len({g.finish_s for g in batch}) == 1, "a batch did not finish together"
    else:
        assert all(watch.steps[g] == g.request.output_len for g in finished)
    for group in finished:
        assert group.first_token_s is not None
        assert group.finish_s is not None
        assert group.request.arrival_s + 1 <= group.first_token_s <= group.finish_s
    assert watch.scheduler.batch.num_seqs == watch.scheduler.batch.context_tokens == 0
    assert not watch.scheduler.batch.beam_groups
    check_all_free(watch.scheduler.kv)


def check_all_free(kv: Any) -> None:
    kv.check_integrity()
    if isinstance(kv, BlockManager):
        assert kv.pool.num_used == kv.num_prefix_blocks
        assert kv.swap_pool.num_used == 0
    elif isinstance(kv, BuddyManager):
        assert kv.allocator.num_free == kv.num_slots
    else:
        assert not kv._rows


@pytest.mark.parametrize(
    ("system", "examples"),
    [(System.ASTRA, 250), *((system, 60) for system in ORCA), (System.FT, 80)],
)
def test_small_traces(system: System, examples: int) -> None:
    @settings(QUICK, max_examples=examples)
    @given(cases(system))
    def check(case: Case) -> None:
        serve(case)

    check()


@pytest.mark.parametrize("preemption", list(Preemption))
@pytest.mark.parametrize("block_size", [1, 5, 16])
@pytest.mark.parametrize("share_prefix", [False, True])
def test_astra_under_overload(
    preemption: Preemption, block_size: int, *, share_prefix: bool
) -> None:
    """A longer trace that preempts often: nothing is lost, starved or mixed up."""
    random = np.random.default_rng(block_size)
    prefix_len = 17 if share_prefix else 0
    requests = [
        make_request(
            index,
            prefix_len + int(random.integers(1, 12)),
            int(random.integers(4, 35)),
            arrival_s=float(index),
            sampling=str(random.choice(SAMPLINGS)),
            prefix_len=prefix_len,
        )
        for index in range(30)
    ]
    config = replace(
        ROOMY, block_size=block_size, max_batched_tokens=128, preemption=preemption,
        share_prefix=share_prefix,
    )  # fmt: skip
    watch = serve(Case(config, requests, seed=1))
    assert watch.scheduler.num_preemptions > 0
    assert len(watch.admitted) == 30


def test_latest_group_is_preempted_first() -> None:
    """Two groups outgrow four blocks: the later one is recomputed, the earlier never stops."""
    config = EngineConfig(
        system=System.ASTRA, num_slots=16, block_size=4, max_model_len=16, watermark=0.0
    )
    watch = serve(Case(config, [make_request(0, 4, 9), make_request(1, 4, 9)], seed=0))
    first, second = watch.admitted
    # From step 1 each holds two blocks and none is free, so group 1 goes in step 2. In step 3 its
    # 6 tokens fit again and are recomputed; it goes in step 4. In step 5 group 0 takes a third
    # block, so group 1, with 3 tokens made, waits for its end in step 8 and takes 6 more steps.
    assert (first.num_preemptions, second.num_preemptions) == (0, 2)
    assert (first.finish_s, second.finish_s) == (9.0, 15.0)
    assert first.first_token_s == second.first_token_s == 1.0, "preempting moves no first token"


def test_waiting_group_does_not_overtake() -> None:
    """A short request that would fit waits behind a long one that does not."""
    config = EngineConfig(system=System.ORCA_ORACLE, num_slots=32, max_model_len=32)
    requests = [make_request(0, 8, 8), make_request(1, 20, 12), make_request(2, 2, 2)]
    watch = serve(Case(config, requests, seed=0))
    assert [g.finish_s for g in watch.admitted] == [8.0, 20.0, 22.0]


def test_sequences_count_for_the_batch_limit_when_they_outnumber_their_prompt() -> None:
    """Prompts of one token for three sequences each: two groups fill a batch of eight tokens."""
    config = replace(ROOMY, max_batched_tokens=8, preemption=Preemption.SWAP)
    requests = [make_request(i, 1, 4, sampling="n3") for i in range(5)]
    watch = serve(Case(config, requests, seed=0))
    assert [g.finish_s for g in watch.admitted] == [4.0, 4.0, 8.0, 8.0, 12.0]


def test_ft_forms_batches_of_earliest_requests() -> None:
    """The batch stops at its size, at the context less its margin, and at another sampling."""
    requests = [
        make_request(0, 4, 10),
        make_request(1, 8, 3),
        make_request(2, 2, 20),
        make_request(3, 4, 40),  # with request 4, 40 + 30 tokens are too many
        make_request(4, 30, 2),
        make_request(5, 2, 2, sampling="n2"),
    ]
    watch = serve(Case(replace(FT, max_batch_size=3), requests, seed=0))
    ids = [[g.request.request_id for g in batch] for batch in watch.ft_batches]
    assert ids == [[0, 1, 2], [3], [4], [5]]
    assert [g.finish_s for g in watch.admitted] == [20.0, 20.0, 20.0, 60.0, 62.0, 64.0]


@pytest.mark.parametrize(("prompt_len", "num_batches"), [(26, 1), (27, 2)])
def test_ft_keeps_a_margin_of_the_context(prompt_len: int, num_batches: int) -> None:
    """Longest prompt and longest output of a batch are at most 8 tokens less than the context."""
    watch = serve(Case(FT, [make_request(0, 4, 30), make_request(1, prompt_len, 2)], seed=0))
    assert len(watch.ft_batches) == num_batches


def test_ft_respects_slots_and_sequences() -> None:
    """A batch is cut where its rows would not fit, and at the limit of sequences."""
    requests = [make_request(i, 8, 8, sampling="n2") for i in range(4)]
    for tight in (replace(FT, num_slots=70), replace(FT, max_num_seqs=5)):
        watch = serve(Case(replace(tight, max_batch_size=4), requests, seed=0))
        assert [len(batch) for batch in watch.ft_batches] == [2, 2]
