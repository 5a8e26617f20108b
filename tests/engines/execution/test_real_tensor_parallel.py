"""Tokens on one, two and four ranks, over real Ray and gloo, and what happens when a rank dies."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from processes import DEADLINE_S, TRIED_TWICE, alive
from real_serving import (
    VOCAB,
    all_expected,
    checkpoint,
    engine_over,
    engine_over_model,
    request,
    serve,
    tokens,
)

from benchmarks import step_overlap
from engines.core.config import EngineConfig, Preemption, System
from engines.core.errors import LostWorkerError, UserError
from engines.core.request import Request, SamplingParams

if importlib.util.find_spec("ray") is None:
    pytest.skip("tests of tensor parallelism left out: ray needed", allow_module_level=True)

from engines.execution import ray_cluster, ray_head
from engines.execution.collectives import LOOPBACK, open_store, reach_store
from engines.execution.ray_address import LOCAL
from engines.execution.ray_cluster import Cluster, join_or_connect
from engines.execution.ray_ranks import RankPlan, RayRanks
from engines.execution.tensor_parallel import ParallelModel, load_onto

PREFIX = (11, 3, 52, 7, 90, 41, 8, 8, 23, 60, 77, 5, 19, 34, 2, 66, 71, 13)
PROMPTS = [tuple(random.Random(i).choices(range(VOCAB), k=3 + 4 * i)) for i in range(3)]
PAGED = EngineConfig(system=System.ASTRA, num_slots=108, swap_slots=4096, block_size=4)
SYSTEMS = {
    "astra-recompute": PAGED,
    "astra-swap": replace(PAGED, preemption=Preemption.SWAP),
    "astra-prefix": replace(PAGED, num_slots=512, share_prefix=True),
    "orca-oracle": EngineConfig(system=System.ORCA_ORACLE, num_slots=500),
    "ft": EngineConfig(system=System.FT, num_slots=500, max_batch_size=4),
}
BEAMS = SamplingParams.parse("beam4")
KINDS = ("opt-wide", "llama-wide")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of this machine's own, with room for four ranks.

    Ray reads once in a process whether clusters have tokens, and those of other tests have none.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray_head._access.cache_clear()
        cluster = join_or_connect(LOCAL, degree=4)
        yield cluster
        cluster.close()
    ray_head._access.cache_clear()


@pytest.fixture(scope="module")
def ranks(cluster: Cluster) -> Iterator[Callable[[int], RayRanks]]:
    """Ranks by degree, which serve one test after another."""
    started: dict[int, RayRanks] = {}

    def of(degree: int) -> RayRanks:
        if degree not in started or not started[degree].is_open:
            for other in started.values():
                other.close()
            started.clear()
            started[degree] = RayRanks.start(RankPlan(degree, "cpu"))
        return started[degree]

    yield of
    for each in started.values():
        each.close()


def sliced(ranks: Callable[[int], RayRanks], kind: str, degree: int) -> ParallelModel:
    return load_onto(ranks(degree), str(checkpoint(kind).directory))


def workload(name: str) -> list[Request]:
    """Greedy requests and beam searches, mixed where the system can do that."""
    prefix = PREFIX if name == "astra-prefix" else ()
    return [
        request(i, prefix + prompt, 12, prefix_len=len(prefix), arrival=i // 3, sampling=sampling)
        for i, (prompt, sampling) in enumerate(
            (prompt, sampling)
            for prompt in PROMPTS
            for sampling in (SamplingParams(), BEAMS)
            if not prefix or sampling.n == 1
        )
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_expected_token_hangs_by_a_hair(kind: str) -> None:
    """Ranks add in another order, which moves logits in their last bits. Where the best two
    differ by far more, equal tokens are no accident."""
    model = checkpoint(kind).reference
    smallest = 1.0
    for name in SYSTEMS:
        for r, (_, outputs) in zip(workload(name), all_expected(kind, workload(name)), strict=True):
            if r.sampling.beam:
                continue
            whole = torch.tensor([[*r.prompt_token_ids, *outputs[0]]])
            with torch.inference_mode():
                logits = model(whole).logits[0, r.prompt_len - 1 : -1]
            best, second = logits.topk(2).values.T
            smallest = min(smallest, float((best - second).min()))
    assert smallest > 1e-3  # degrees 2 and 4 move such logits by 2e-5 at most


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("degree", [1, 4, 2])  # the tests below go on with two ranks
def test_tokens_do_not_depend_on_the_degree(
    ranks: Callable[[int], RayRanks], kind: str, degree: int
) -> None:
    loaded = checkpoint(kind).loaded if degree == 1 else sliced(ranks, kind, degree)
    for name, config in SYSTEMS.items():
        requests = workload(name)
        engine = engine_over_model(loaded, config)
        assert tokens(serve(engine, requests)) == dict(all_expected(kind, requests)), name
        if name in ("astra-recompute", "astra-swap"):
            assert engine.scheduler.num_preemptions > 0


@pytest.mark.slow
def test_sampled_and_stopped_tokens_are_those_of_one_device(
    ranks: Callable[[int], RayRanks],
) -> None:
    """Draws, early ends and summed log-probabilities are rank 0's on every rank."""
    pair = checkpoint("opt-wide")
    params = [
        SamplingParams(n=3, temperature=1.5, top_p=0.9),
        SamplingParams(temperature=2.0, ignore_eos=False),
        SamplingParams(ignore_eos=False),
        replace(BEAMS, ignore_eos=False),
    ]
    requests = [
        request(i, PROMPTS[i % 3], 20, sampling=params[i % 4], arrival=i // 2) for i in range(12)
    ]
    for config in (replace(PAGED, num_slots=256), SYSTEMS["ft"]):
        alone = serve(engine_over(pair, config, seed=3), requests)
        shared = serve(engine_over_model(sliced(ranks, "opt-wide", 2), config, seed=3), requests)
        assert tokens(shared) == tokens(alone)
        for i, group in alone.items():
            for one, other in zip(group.sequences, shared[i].sequences, strict=True):
                assert other.cumulative_logprob == pytest.approx(one.cumulative_logprob, abs=1e-3)
        lengths = {len(output) for outputs in tokens(alone).values() for output in outputs}
        assert len(lengths) > 1


@pytest.mark.slow
def test_steps_overlap_with_scheduling_where_no_token_decides(
    ranks: Callable[[int], RayRanks],
) -> None:
    model = sliced(ranks, "llama-wide", 2)
    plain = [request(i, PROMPTS[i % 3], 30) for i in range(8)]
    overlapped = step_overlap.serve(model, plain, overlap=True)
    in_turn = step_overlap.serve(model, plain, overlap=False)
    assert (
        overlapped.tokens
        == in_turn.tokens
        == list(dict(all_expected("llama-wide", plain)).values())
    )
    assert overlapped.timing.steps == in_turn.timing.steps == 30
    assert overlapped.timing.hidden_s == overlapped.timing.driver_s > 0
    assert in_turn.timing.hidden_s == 0 < in_turn.timing.driver_s
    beams = [r._replace(sampling=BEAMS) for r in plain]
    assert step_overlap.serve(model, beams, overlap=True).timing.hidden_s == 0


def test_nobody_can_take_the_port_at_which_ranks_will_meet() -> None:
    store = open_store(LOOPBACK)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", store.port))
    reach_store(LOOPBACK, store.port).set("here", "1")
    assert store.get("here") == b"1"


@pytest.mark.slow
def test_slots_are_what_every_rank_has_room_for(ranks: Callable[[int], RayRanks]) -> None:
    pair, model = checkpoint("llama-wide"), sliced(ranks, "llama-wide", 2)
    sizes = {"gpu_memory_bytes": 2 << 30, "max_batched_tokens": 512}
    slots = model.default_slots(**sizes)
    assert slots == min(model._ranks.ask("default_slots", 2 << 30, 512))
    # Each rank holds half of a slot and half of the weights, of the same memory.
    assert slots > 2 * pair.loaded.default_slots(**sizes)
    assert model.spec == pair.loaded.spec
    assert model.device_name.startswith("2x cpu: ")
    with pytest.raises(UserError, match="leaves no memory for a KV cache"):
        model.default_slots(gpu_memory_bytes=1 << 30, max_batched_tokens=512)


@pytest.mark.slow
def test_more_than_the_cluster_has(
    ranks: Callable[[int], RayRanks], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks(2)
    with pytest.raises(UserError, match=r"needs 8 CPUs, the Ray cluster has 4 \(4 on .*; 2 free\)"):
        RayRanks.start(RankPlan(8, "cpu"))
    with pytest.raises(UserError, match=r"needs 2 GPUs, the Ray cluster has 0 \(0 on .*add nodes"):
        RayRanks.start(RankPlan(2, "cuda"))
    monkeypatch.setattr(ray_cluster, "_PLACE_TIMEOUT_S", 0.5)
    with pytest.raises(UserError, match=r"no 3 CPUs of the Ray cluster came free within"):
        RayRanks.start(RankPlan(3, "cpu"))
    assert ranks(2).ask("place")  # those that run are not disturbed


@pytest.mark.slow
def test_within_a_task_the_ranks_share_what_the_task_has(cluster: Cluster) -> None:
    """As in a sweep: the task holds all CPUs, and none is left for others."""
    import ray

    def work(directory: str) -> tuple[int, str]:
        from engines.execution.ray_ranks import RankPlan, RayRanks
        from engines.execution.tensor_parallel import load_onto

        ranks = RayRanks.start(RankPlan(2, "cpu"))
        model = load_onto(ranks, directory)
        slots = model.default_slots(gpu_memory_bytes=2 << 30, max_batched_tokens=512)
        ranks.close()
        return slots, model.device_name

    before = int(ray.available_resources().get("CPU", 0))
    task = ray.remote(work).options(num_cpus=max(before, 1))
    directory = str(checkpoint("opt-wide").directory)
    slots, name = ray.get(task.remote(directory), timeout=DEADLINE_S)
    assert slots > 0
    assert name.startswith("2x cpu: ")


@TRIED_TWICE
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_at_once(
    ranks: Callable[[int], RayRanks], victim: int
) -> None:
    serving = ranks(2)
    model = sliced(ranks, "opt-wide", 2)
    engine = engine_over_model(model, replace(PAGED, num_slots=1024))
    for i in range(6):
        engine.add_request(request(i, PROMPTS[i % 3], 40))
    for _ in range(5):
        engine.step()
    os.kill(serving.pids[victim], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LostWorkerError, match=rf"rank {victim} of 2 died \(process \d+ on "):
        serve(engine, [])
    assert time.monotonic() - began < 10
    while any(map(alive, serving.pids)):
        assert time.monotonic() - began < 10, "a rank was left behind"
        time.sleep(0.05)
