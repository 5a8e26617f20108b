"""Greedy and beam tokens are transformers', whatever the system, the cache and the batch."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_serving import VOCAB, all_expected, checkpoint, engine_over, request, serve, tokens

from engines.core.config import EngineConfig, Preemption, System
from engines.core.request import Request
from engines.core.sampling import SamplingParams

PREFIX = (11, 3, 52, 7, 90, 41, 8, 8, 23, 60, 77, 5, 19, 34, 2, 66, 71, 13)

# A few prompts and lengths only, so that transformers computes each once.
PROMPTS = [tuple(random.Random(i).choices(range(VOCAB), k=1 + 3 * i)) for i in range(6)]
LENGTHS = (1, 5, 14)

KINDS = st.sampled_from(["opt", "llama"])
SAMPLINGS = [SamplingParams(), SamplingParams.parse("beam2"), SamplingParams.parse("beam4")]


def systems() -> list[tuple[str, EngineConfig]]:
    """Every way to keep the cache; Astra's is small enough to preempt."""
    paged = EngineConfig(system=System.ASTRA, num_slots=2048, swap_slots=4096)
    found = [
        (f"astra-{size}-{kept.value}-{slots}", replace(
            paged, block_size=size, preemption=kept, num_slots=slots))
        for size, slots in ((1, 140), (16, 352), (128, 8 * 128))
        for kept in (Preemption.RECOMPUTE, Preemption.SWAP)
    ]  # fmt: skip
    for system in (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX):
        found.append((system.value, EngineConfig(system=system, num_slots=500)))
    found.append(("ft", EngineConfig(system=System.FT, num_slots=500, max_batch_size=4)))
    return found


SYSTEMS = dict(systems())


@st.composite
def workloads(draw: st.DrawFn, prefix: tuple[int, ...] = ()) -> list[Request]:
    """Up to seven requests that arrive in any order at early steps; all begin with `prefix`."""
    sampling = draw(st.sampled_from(SAMPLINGS))
    made = draw(
        st.lists(
            st.tuples(st.sampled_from(PROMPTS), st.sampled_from(LENGTHS), st.integers(0, 12)),
            min_size=2,
            max_size=5 if sampling.beam else 7,
        )
    )
    return [
        request(
            i, prefix + prompt, length, sampling=sampling, arrival=arrival, prefix_len=len(prefix)
        )
        for i, (prompt, length, arrival) in enumerate(made)
    ]


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(kind=KINDS, requests=workloads())
@pytest.mark.parametrize("name", SYSTEMS)
def test_tokens_equal_transformers(name: str, kind: str, requests: list[Request]) -> None:
    engine = engine_over(checkpoint(kind), SYSTEMS[name])
    assert tokens(serve(engine, requests)) == dict(all_expected(kind, requests))


ASTRA = [name for name, config in SYSTEMS.items() if config.system is System.ASTRA]


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(kind=KINDS, requests=workloads(prefix=PREFIX))
@pytest.mark.parametrize("name", ASTRA)
def test_tokens_equal_transformers_with_a_shared_prefix_or_without(
    name: str, kind: str, requests: list[Request]
) -> None:
    """Greedy and beams, preempted or not, in any batch."""
    wanted = dict(all_expected(kind, requests))
    for share in (True, False):
        engine = engine_over(checkpoint(kind), replace(SYSTEMS[name], share_prefix=share))
        assert tokens(serve(engine, requests)) == wanted, f"share_prefix={share}"


@pytest.mark.parametrize("kind", ["opt", "llama"])
@pytest.mark.parametrize("preemption", [Preemption.RECOMPUTE, Preemption.SWAP])
@pytest.mark.parametrize("block_size", [1, 16])
def test_preempted_requests_lose_nothing(kind: str, preemption: Preemption, block_size: int):
    config = EngineConfig(
        system=System.ASTRA, num_slots=112, swap_slots=512, block_size=block_size,
        preemption=preemption,
    )  # fmt: skip
    requests = [request(i, PROMPTS[3], 14 + i) for i in range(8)]
    engine = engine_over(checkpoint(kind), config)
    assert tokens(serve(engine, requests)) == dict(all_expected(kind, requests))
    assert engine.scheduler.num_preemptions > 0


@pytest.mark.parametrize(("block_size", "num_slots"), [(1, 130), (16, 256)])
def test_swapped_beams_lose_nothing(block_size: int, num_slots: int) -> None:
    config = EngineConfig(
        system=System.ASTRA, num_slots=num_slots, swap_slots=1024, block_size=block_size
    )
    beams = SamplingParams.parse("beam4")
    requests = [request(i, PROMPTS[1 + i % 5], 26, sampling=beams) for i in range(9)]
    engine = engine_over(checkpoint("opt"), config)
    assert tokens(serve(engine, requests)) == dict(all_expected("opt", requests))
    assert engine.scheduler.num_preemptions > 0


@pytest.mark.parametrize("kind", ["opt", "llama"])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_a_shared_prefix_changes_nothing(kind: str, block_size: int) -> None:
    requests = [
        request(i, PREFIX + PROMPTS[i % 6], 9, prefix_len=len(PREFIX), arrival=i // 3)
        for i in range(7)
    ]
    config = EngineConfig(system=System.ASTRA, num_slots=1024, block_size=block_size)
    alone = tokens(serve(engine_over(checkpoint(kind), config), requests))
    sharing = engine_over(checkpoint(kind), replace(config, share_prefix=True))
    assert tokens(serve(sharing, requests)) == alone == dict(all_expected(kind, requests))


@pytest.mark.parametrize("system", ["astra-16-recompute-352", "orca-oracle", "ft"])
@pytest.mark.parametrize("sampling", ["n1", "beam2", "beam4"])
def test_the_end_of_sequence_token_ends_outputs(system: str, sampling: str) -> None:
    params = replace(SamplingParams.parse(sampling), ignore_eos=False)
    # Prompts of which transformers ends some early.
    prompts = [tuple(random.Random(i).choices(range(VOCAB), k=4)) for i in range(40, 52)]
    requests = [request(i, p, 30, sampling=params) for i, p in enumerate(prompts)]
    wanted = dict(all_expected("opt", requests, eos=True))
    engine = engine_over(checkpoint("opt"), SYSTEMS[system])
    assert tokens(serve(engine, requests)) == wanted
    lengths = {len(output) for outputs in wanted.values() for output in outputs}
    assert min(lengths) < 30
    if not params.beam:
        assert max(lengths) == 30


def test_log_probabilities_are_transformers() -> None:
    import torch

    pair = checkpoint("llama")
    (group,) = serve(engine_over(pair, SYSTEMS["orca-max"]), [request(0, PROMPTS[4], 8)]).values()
    (sequence,) = group.sequences
    whole = torch.tensor([[*PROMPTS[4], *sequence.output_token_ids]])
    with torch.inference_mode():
        table = pair.reference(whole).logits[0].log_softmax(-1)
    first = len(PROMPTS[4]) - 1
    chosen = [table[first + i, token] for i, token in enumerate(sequence.output_token_ids)]
    assert sequence.cumulative_logprob == pytest.approx(float(sum(chosen)), abs=1e-4)
