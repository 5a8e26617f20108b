"""Copies that follow by messages hold what the driver holds, and the messages are small."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.core.batch import Batch
from engines.core.clock import VirtualClock
from engines.core.config import EngineConfig, Preemption, System
from engines.core.engine import Engine
from engines.core.executor import Fork, StepResult
from engines.core.journal import Journal, Op
from engines.core.kv import KVManager
from engines.core.request import Request, SamplingParams
from engines.core.stats import StepRecorder
from engines.execution.mirror import Mirror
from engines.execution.step_message import (
    Change,
    Described,
    Inputs,
    StepCodec,
    StepMessage,
    StepWriter,
    Totals,
)
from engines.execution.step_reply import Output, StepReply
from engines.systems import create_scheduler

FIXED_BYTES, BYTES_PER_SEQUENCE = 1024, 16


class Follower:
    """A remote executor whose steps are a copy's, compared with the driver's batch.

    It draws which beams fork and which sequences stop.
    """

    def __init__(self, config: EngineConfig, seed: int) -> None:
        self.mirror = Mirror(create_scheduler(config))
        self.journal = Journal()
        self.writer = StepWriter()
        self.codec = StepCodec(config.max_model_len)
        self.random = random.Random(seed)
        self.spare: list[int] = []  # bytes below the limit, by step
        self.sent: list[Inputs] = []
        self.batch = Batch()

    def follow(self, kv: KVManager) -> None:
        self.kv = kv
        self.journal.watch(kv)

    def execute(self, batch: Batch) -> StepResult:
        totals = Totals.of(batch, self.kv.usage(batch).used)
        message, inputs = self.writer.write(totals, self.journal.take())
        self.sent.append(inputs)
        data = self.codec.encode(message)
        assert self.codec.decode(data) == message
        copy = self.mirror.follow(self.codec.decode(data), inputs)
        assert told(copy) == told(batch)
        limit = FIXED_BYTES + BYTES_PER_SEQUENCE * num_changed(batch)
        self.spare.append(limit - len(data))
        self.batch = batch
        return StepResult(0.0, [], [])

    def finish(self) -> StepResult:
        forks, stopped = [], []
        for group in self.batch.beam_groups.values():
            survivors = sorted(self.random.choices(range(len(group.running)), k=2))
            parents = [i if i in survivors else survivors[0] for i in range(len(group.running))]
            if self.random.random() < 0.5:
                forks.append(Fork(group, parents))
            if self.random.random() < 0.03:
                stopped += group.running
        for sequence in self.batch.joined:
            sampling = sequence.group.request.sampling
            if not (sampling.beam or sampling.ignore_eos) and self.random.random() < 0.2:
                stopped.append(sequence)
        return StepResult(1.0, forks, stopped)


def told(batch: Batch) -> dict[str, object]:
    """All that an executor reads of a batch, by names instead of objects."""

    def name(sequence) -> tuple[int, int]:
        return sequence.group.request.request_id, sequence.index

    def place(sequence) -> tuple[object, ...]:
        return *name(sequence), list(sequence.blocks), sequence.group.context_len(batch.step)

    request_of = {
        p.group.request.request_id: p.group.request._replace(arrival_s=0.0) for p in batch.prompts
    }
    return {
        "step": batch.step,
        "totals": (batch.num_seqs, batch.context_tokens, batch.num_decodes,
                   batch.decode_context_tokens, batch.num_stoppable),
        "beams": list(batch.beam_groups),
        "prompts": [(p.group.request.request_id, p.num_tokens, p.num_cached, p.copies)
                    for p in batch.prompts],
        "requests": request_of,
        "running": [[name(s) for s in p.group.running] for p in batch.prompts],
        "joined": [place(s) for s in batch.joined],
        "left": [(*name(s), s.finished, s.group.status) for s in batch.left],
        "forked": [place(s) for s in batch.forked],
        "changed": [place(s) for s in batch.changed],
        "copies": list(batch.copies),
        "swaps": (list(batch.swap_out), list(batch.swap_in)),
    }  # fmt: skip


def num_changed(batch: Batch) -> int:
    """Sequences to which anything happened."""
    return len({*batch.joined, *batch.left, *batch.forked, *batch.changed})


def run(config: EngineConfig, requests: list[Request], *, seed: int = 0) -> tuple[Follower, Engine]:
    """Serve the requests, each arriving at its step."""
    follower = Follower(config, seed)
    recorder = StepRecorder(0.0, 0.0)
    engine = Engine(create_scheduler(config), follower, VirtualClock(), recorder=recorder)
    waiting = sorted(requests, key=lambda r: r.arrival_s)
    finished = []
    step = 0
    while waiting or engine.has_work:
        while waiting and (waiting[0].arrival_s <= step or not engine.has_work):
            engine.add_request(waiting.pop(0))
        finished += engine.step()
        step += 1
    assert {g.request.request_id for g in finished} == {r.request_id for r in requests}
    assert all(g.finish_s is not None and g.first_token_s is not None for g in finished)
    return follower, engine


PAGED = EngineConfig(system=System.ASTRA, num_slots=160, swap_slots=4096, max_model_len=64)
CONFIGS = {
    "astra": replace(PAGED, block_size=4),
    "astra-1": replace(PAGED, block_size=1, num_slots=120),
    "astra-swap": replace(PAGED, block_size=4, preemption=Preemption.SWAP),
    "astra-prefix": replace(PAGED, block_size=4, num_slots=220, share_prefix=True),
    "orca-oracle": EngineConfig(system=System.ORCA_ORACLE, num_slots=300, max_model_len=64),
    "orca-max": EngineConfig(system=System.ORCA_MAX, num_slots=512, max_model_len=64),
    "ft": EngineConfig(system=System.FT, num_slots=500, max_batch_size=5, max_model_len=64),
}
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(ignore_eos=False),
    SamplingParams(n=3, temperature=1.0, ignore_eos=False),
    SamplingParams.parse("beam3"),
]


@st.composite
def workloads(draw: st.DrawFn) -> list[Request]:
    """Requests of all kinds; some bring their prompt, some share a prefix."""
    made = draw(
        st.lists(
            st.tuples(
                st.integers(1, 20), st.integers(1, 14), st.integers(0, 12),
                st.sampled_from(SAMPLINGS), st.booleans(),
            ),
            min_size=1,
            max_size=14,
        )
    )  # fmt: skip
    return [
        Request(
            100_000 + i, float(arrival), prompt, output, sampling, min(9, prompt),
            tuple(range(prompt)) if given_tokens else None,
        )
        for i, (prompt, output, arrival, sampling, given_tokens) in enumerate(made)
    ]  # fmt: skip


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(requests=workloads(), seed=st.integers(0, 9))
@pytest.mark.parametrize("name", CONFIGS)
def test_a_copy_follows_every_change(name: str, requests: list[Request], seed: int) -> None:
    follower, engine = run(CONFIGS[name], requests, seed=seed)
    assert min(follower.spare) >= 0
    engine.scheduler.kv.check_integrity()


@pytest.mark.parametrize("sampling", ["n1", "n4", "beam4"])
@pytest.mark.parametrize("name", ["astra", "astra-1", "orca-oracle", "ft"])
def test_messages_of_a_crowded_server_are_small(name: str, sampling: str) -> None:
    """Hundreds of requests at once, preempted all the time, with prompts of up to 600 tokens."""
    config = replace(
        CONFIGS[name], num_slots=6000, swap_slots=200_000, max_model_len=2048, max_batch_size=9
    )
    draw = random.Random(3)
    requests = [
        Request(i, float(i // 8), draw.randint(1, 600), draw.randint(1, 200),
                SamplingParams.parse(sampling))
        for i in range(150)
    ]  # fmt: skip
    follower, engine = run(config, requests)
    assert min(follower.spare) >= 0
    if name.startswith("astra"):
        assert engine.scheduler.num_preemptions > 0


def test_a_step_in_which_nothing_changes_is_a_bare_header() -> None:
    message = StepMessage(Totals(7, 512, 100_000, 120_000), (), ())
    assert len(StepCodec(2048).encode(message)) == 36


REQUEST_IDS = st.integers(0, 2**32 - 1)
SHORT = st.integers(0, 2**16 - 1)


def messages(longest: int) -> st.SearchStrategy[StepMessage]:
    """Any message that could be written, sensible or not."""
    length = st.integers(0, longest)
    plain = st.builds(
        Change, st.sampled_from([op for op in Op if op is not Op.FORK]), REQUEST_IDS, length
    )
    parents = st.lists(st.integers(0, 255), min_size=1, max_size=64).map(tuple)
    forks = st.builds(Change, st.just(Op.FORK), REQUEST_IDS, st.just(0), parents)
    described = st.builds(Described, length, length, length, SHORT)
    totals = st.builds(
        Totals, REQUEST_IDS, REQUEST_IDS, st.integers(0, 2**63), st.integers(0, 2**63)
    )
    return st.builds(
        StepMessage,
        totals,
        st.lists(plain | forks, max_size=40).map(tuple),
        st.lists(described, max_size=20).map(tuple),
    )


@pytest.mark.parametrize("longest", [2**16 - 1, 2**17])
def test_a_message_is_read_as_it_was_written(longest: int) -> None:
    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(message=messages(longest))
    def check(message: StepMessage) -> None:
        codec = StepCodec(longest)
        assert codec.decode(codec.encode(message)) == message

    check()


@given(message=messages(2048), cut=st.integers(1, 30))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_a_truncated_message_is_refused(message: StepMessage, cut: int) -> None:
    codec = StepCodec(2048)
    with pytest.raises(AssertionError, match=r"ends before|left over"):
        codec.decode(codec.encode(message)[:-cut])
    with pytest.raises(AssertionError, match="left over"):
        codec.decode(codec.encode(message) + bytes(cut))


@given(
    st.builds(
        StepReply,
        REQUEST_IDS,
        st.floats(0, 1e6),
        st.floats(0, 1e6),
        st.lists(
            st.tuples(REQUEST_IDS, st.lists(st.integers(0, 255), max_size=64).map(tuple)),
            max_size=20,
        ).map(tuple),
        st.lists(st.tuples(REQUEST_IDS, SHORT), max_size=20).map(tuple),
        st.lists(
            st.builds(
                Output, REQUEST_IDS, SHORT, st.floats(-1e9, 0),
                st.lists(st.integers(0, 2**31 - 1), max_size=50).map(tuple),
            ),
            max_size=10,
        ).map(tuple),
    )
)  # fmt: skip
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
def test_a_reply_is_read_as_it_was_written(reply: StepReply) -> None:
    assert StepReply.decode(reply.encode()) == reply


def test_a_copy_that_went_astray_is_noticed() -> None:
    config = CONFIGS["astra"]
    mirror = Mirror(create_scheduler(config))
    admit = (Change(Op.ADMIT, 5, 10),)
    message = StepMessage(Totals(0, 1, 10, 8), admit, (Described(10, 3, 0, 0),))
    with pytest.raises(AssertionError, match=r"copy has .*used_slots=12.*driver .*used_slots=8"):
        mirror.follow(message, Inputs((SamplingParams(),)))


def test_prompts_and_parameters_are_sent_once() -> None:
    prompt = tuple(range(10))
    requests = [Request(i, 0.0, 10, 20, SamplingParams(), 0, prompt) for i in range(6)]
    config = replace(PAGED, block_size=4, num_slots=64)
    follower, engine = run(config, requests)
    assert engine.scheduler.num_preemptions > 0
    assert sum(len(inputs.samplings) for inputs in follower.sent) == 1
    sent = [item for inputs in follower.sent for item in inputs.prompts.items()]
    assert sorted(i for i, _ in sent) == list(range(6))
    assert all(np.array_equal(tokens, prompt) for _, tokens in sent)
