"""Host work of a step follows what changes, counted in calls and not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest
from serving import make_config, make_engine, make_request

from bench.point.metrics import RequestLog
from bench.point.replicas import LeastLoaded, Replica
from bench.workloads.build import build_workload
from engines.astra.block_manager import BlockManager
from engines.core.batch import Batch
from engines.core.request import SequenceGroup, Status


def count_calls(work: Callable[[], object]) -> int:
    """Calls of Python and C functions made by `work`."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("system", ["astra", "orca-max", "ft"])
def test_a_step_does_not_look_at_the_queue(system: str) -> None:
    def steps_with_queue(length: int) -> int:
        engine = make_engine(make_config(system, num_slots=256))
        for index in range(length):
            engine.add_request(make_request(index, 8, 30))
        return count_calls(lambda: [engine.step() for _ in range(100)])

    steps_with_queue(200)  # fills the caches of abstract base classes
    assert steps_with_queue(5000) < 1.05 * steps_with_queue(200)


@pytest.mark.parametrize("block_size", [1, 16])
def test_a_fork_costs_what_differs(block_size: int) -> None:
    """Not what beams have in common, in blocks or in tokens."""

    def fork_after(prompt_len: int) -> int:
        config = make_config(num_slots=40_000, block_size=block_size, max_model_len=20_000)
        manager = BlockManager(config)
        group = SequenceGroup(make_request(0, prompt_len, 50, sampling="beam6"))
        group.start()
        group.status = Status.RUNNING
        manager.admit(group, prompt_len)
        manager.append(group, prompt_len + 1, Batch())
        return count_calls(lambda: manager.fork(group, (0, 0, 0, 0, 0, 0), Batch()))

    assert fork_after(17) == fork_after(16_001)


def test_an_arrival_does_not_ask_every_replica() -> None:
    """Of two thousand replicas only those are looked at whose step has ended since the last."""
    requests = [make_request(index, 8, 30, arrival_s=0.1 * index) for index in range(300)]
    log = RequestLog(build_workload("sharegpt", rate=9.0, duration=60.0, seed=0))

    def route(num_replicas: int) -> int:
        engines = [make_engine(make_config()) for _ in range(num_replicas)]
        choose = LeastLoaded([Replica(engine, log, until_s=1e9) for engine in engines])
        return count_calls(lambda: [choose(r.arrival_s).add(r) for r in requests])

    assert route(2000) < 1.1 * route(300)
