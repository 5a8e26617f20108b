"""Tokens on one, two and four ranks, over real Ray and gloo, and what happens when a rank dies."""

from __future__ import annotations

import importlib.util
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import real_serving
import torch
from processes import DEADLINE_S, TRIED_TWICE, alive
from real_serving import (
    VOCAB,
    all_expected,
    checkpoint,
    engine_over_model,
    request,
    serve,
)

from engines.core.config import EngineConfig, Preemption, System
from engines.core.errors import LostWorkerError, UserError
from engines.core.request import Request, SequenceGroup
from engines.core.sampling import SamplingParams

if importlib.util.find_spec("ray") is None:
    pytest.skip("tests of tensor parallelism left out: ray needed", allow_module_level=True)

from engines.execution import ranks as ranks_module
from engines.execution.collectives import LOOPBACK, open_store, reach_store
from engines.execution.ranks import Ranks, start_ranks
from engines.execution.ray_session import LOCAL, ray_session
from engines.execution.setup import LoadedModel

pytestmark = pytest.mark.alone

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
def cluster() -> Iterator[None]:
    """A cluster of this machine's own, with room for two ranks and four.

    Without a token, as all clusters that tests join in this process: Ray reads that only once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with ray_session(LOCAL, num_cpus=6):
            from ray import cloudpickle

            for module in (sys.modules[__name__], real_serving):  # ranks cannot import them
                cloudpickle.register_pickle_by_value(module)
            yield


@pytest.fixture(scope="module")
def two(cluster: None) -> Iterator[Ranks]:
    """Two ranks, which serve one test after another."""
    with start_ranks(2, "cpu") as ranks:
        yield ranks


def on_ranks(ranks: Ranks, kind: str, work: Callable[..., Any], *args: Any) -> Any:
    """Rank 0's result of `work(loaded, *args)`, called on each rank with its slice."""

    def load_and_work(
        communicator: Any, on_progress: object, directory: str, *args: Any
    ) -> tuple[Any, bool]:
        from engines.execution.setup import load

        result = work(load(directory, device="cpu", communicator=communicator), *args)
        results = communicator.gather_values(result)
        return result, all(r == result for r in results)

    result, alike = ranks.run(load_and_work, str(checkpoint(kind).directory), *args)
    assert alike, "ranks differ"
    return result


Served = dict[int, list[tuple[list[int], float]]]


def serve_all(
    loaded: LoadedModel, config: EngineConfig, requests: list[Request], seed: int = 0
) -> tuple[Served, int]:
    """Every output's tokens and log-probability, and how often requests were preempted."""
    engine = engine_over_model(loaded, config, seed=seed)
    groups: dict[int, SequenceGroup] = serve(engine, requests)
    served = {
        i: [(s.output_token_ids, s.cumulative_logprob) for s in group.sequences]
        for i, group in groups.items()
    }
    return served, engine.scheduler.num_preemptions


def tokens_of(served: Served) -> dict[int, list[list[int]]]:
    return {i: [tokens for tokens, _ in outputs] for i, outputs in served.items()}


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


def check_systems(kind: str, serve_one: Callable[..., tuple[Served, int]]) -> None:
    """All systems' tokens are those of transformers, preempted or not."""
    for name, config in SYSTEMS.items():
        requests = workload(name)
        served, num_preemptions = serve_one(config, requests)
        assert tokens_of(served) == dict(all_expected(kind, requests)), name
        if name in ("astra-recompute", "astra-swap"):
            assert num_preemptions > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_one_device_are_transformers(kind: str) -> None:
    check_systems(kind, partial(serve_all, checkpoint(kind).loaded))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_two_ranks_are_transformers(two: Ranks, kind: str) -> None:
    check_systems(kind, partial(on_ranks, two, kind, serve_all))


@pytest.mark.slow
def test_tokens_of_four_ranks_are_transformers(cluster: None) -> None:
    with start_ranks(4, "cpu") as ranks:
        for kind in KINDS:
            check_systems(kind, partial(on_ranks, ranks, kind, serve_all))


@pytest.mark.slow
def test_sampled_and_stopped_tokens_are_those_of_one_device(two: Ranks) -> None:
    """Draws, early ends and beams are rank 0's on every rank."""
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
        alone, _ = serve_all(checkpoint("opt-wide").loaded, config, requests, 3)
        shared, _ = on_ranks(two, "opt-wide", serve_all, config, requests, 3)
        assert tokens_of(shared) == tokens_of(alone)
        for i, outputs in alone.items():
            for (_, one), (_, other) in zip(outputs, shared[i], strict=True):
                assert other == pytest.approx(one, abs=1e-3)
        lengths = {len(output) for outputs in tokens_of(alone).values() for output in outputs}
        assert len(lengths) > 1


def test_nobody_can_take_the_port_at_which_ranks_will_meet() -> None:
    store = open_store(LOOPBACK)
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", store.port))
    reach_store(LOOPBACK, store.port).set("here", "1")
    assert store.get("here") == b"1"


@pytest.mark.slow
def test_ranks_share_one_clock(two: Ranks) -> None:
    """Its readings are rank 0's, whatever the others' own clocks say."""

    def read_clock(loaded: LoadedModel) -> list[float]:
        import time

        rank = loaded.communicator.rank
        time.sleep(0.2 * rank)
        clock = loaded.clock()
        readings = [clock.now]
        for wait_s in (0.1, 0.0, 0.3):
            time.sleep(0.1 * rank)
            clock.wait_until(clock.now + wait_s)
            readings.append(clock.now)
        return readings

    first, second, third, fourth = on_ranks(two, "opt-wide", read_clock)
    assert first == 0.0
    assert 0.1 <= second <= third <= fourth - 0.3


@pytest.mark.slow
def test_slots_are_what_every_rank_has_room_for(two: Ranks) -> None:
    pair, sizes = checkpoint("llama-wide"), {"gpu_memory_bytes": 2 << 30, "max_batched_tokens": 512}

    def ask(loaded: LoadedModel, sizes: dict[str, int]) -> tuple[Any, ...]:
        slots = loaded.default_slots(**sizes)
        return loaded.device_name, loaded.spec, slots, loaded.swap_bytes(1 << 20, 16)

    name, spec, slots, swap_bytes = on_ranks(two, "llama-wide", ask, sizes)
    # Each rank holds half of a slot and half of the weights, of the same memory.
    assert slots > 2 * pair.loaded.default_slots(**sizes)
    assert spec == pair.loaded.spec
    assert name.startswith("2x cpu: ")
    assert swap_bytes == 2 << 20
    with pytest.raises(UserError, match="leaves no memory for a KV cache"):
        on_ranks(two, "llama-wide", ask, {**sizes, "gpu_memory_bytes": 1 << 30})


@pytest.mark.slow
def test_what_one_rank_lacks_ends_the_work_of_all(cluster: None) -> None:
    def fail(loaded: LoadedModel) -> None:
        from engines.core.errors import UserError

        if loaded.communicator.rank == 1:
            raise UserError("too small")

    with pytest.raises(UserError, match=r"^too small$"), start_ranks(2, "cpu") as ranks:
        on_ranks(ranks, "opt-wide", fail)


@pytest.mark.slow
def test_more_than_the_cluster_has(
    two: Ranks, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"needs 8 CPUs, the Ray cluster has 6 \(6 on "
    with pytest.raises(UserError, match=message), start_ranks(8, "cpu"):
        pass
    message = r"needs 2 GPUs, the Ray cluster has 0 \(0 on .*add nodes"
    with pytest.raises(UserError, match=message), start_ranks(2, "cuda"):
        pass
    monkeypatch.setattr(ranks_module, "_PLACE_TIMEOUT_S", 0.5)
    message = r"no 5 CPUs of the Ray cluster came free within"
    with pytest.raises(UserError, match=message), start_ranks(5, "cpu"):
        pass
    assert two.run(lambda communicator, _: communicator.size) == 2  # those that run go on


@pytest.mark.slow
def test_within_a_task_the_ranks_share_what_the_task_has(cluster: None) -> None:
    """As in a sweep: the task holds all CPUs, and none is left for others."""
    import ray

    def work() -> Any:
        from engines.execution.ranks import start_ranks

        with start_ranks(2, "cpu") as ranks:
            return ranks.run(lambda communicator, _: communicator.size)

    free = int(ray.available_resources().get("CPU", 0))
    task = ray.remote(work).options(num_cpus=max(free, 1))
    assert ray.get(task.remote(), timeout=DEADLINE_S) == 2


@TRIED_TWICE
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_at_once(cluster: None, victim: int) -> None:
    def kill_one(loaded: LoadedModel, victim: int) -> None:
        import os
        import signal

        engine = engine_over_model(loaded, replace(PAGED, num_slots=1024))
        for i in range(6):
            engine.add_request(request(i, PROMPTS[i % 3], 40))
        while engine.has_work:
            engine.step()
            if engine.num_steps == 5 and loaded.communicator.rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)

    message = rf"rank {victim} of 2 died \(process \d+ on "
    with start_ranks(2, "cpu") as ranks:
        pids = [place.pid for place in ranks.places]
        on_ranks(ranks, "opt-wide", lambda loaded: loaded.spec)  # which takes long at first
        began = time.monotonic()
        with pytest.raises(LostWorkerError, match=message):
            on_ranks(ranks, "opt-wide", kill_one, victim)
    assert time.monotonic() - began < 10
    while any(map(alive, pids)):
        assert time.monotonic() - began < 10, "a rank was left behind"
        time.sleep(0.05)
