"""Replicas behind a router: each is an engine as alone, and the router knows only the past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bench.point import replicas as module
from bench.point.metrics import RequestLog, summarize
from bench.point.platform import simulate
from bench.point.replicas import Choose, LeastLoaded, Replica, serve
from bench.point.serve import create_engines, run_point
from bench.point.setting import Setting, settle
from bench.point.spec import PointSpec
from bench.workloads.build import Workload, build_workload
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", workload="sharegpt", rate=6.0, duration=60.0, warmup=0.0)
SYSTEMS = ["astra", "orca-pow2", "ft"]


def settled(spec: PointSpec) -> Setting:
    return settle(spec, simulate(spec))


def workload_of(spec: PointSpec) -> Workload:
    return build_workload(spec.workload, rate=spec.rate, duration=spec.duration, seed=spec.seed)


def serve_fleet(
    setting: Setting, workload: Workload, *, router: str, until_s: float = np.inf
) -> RequestLog:
    log = RequestLog(workload)
    requests = workload.requests(setting.spec.sampling)
    serve(create_engines(setting), requests, log, router=router, until_s=until_s)
    return log


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The index of the replica that each request is given, in order of arrival."""
    found: list[int] = []

    def watched(replicas: Sequence[Replica]) -> Choose:
        choose = LeastLoaded(replicas)

        def tell(time_s: float) -> Replica:
            chosen = choose(time_s)
            found.append(list(replicas).index(chosen))
            return chosen

        return tell

    monkeypatch.setitem(module.ROUTERS, "least-loaded", watched)
    return found


def test_round_robin_gives_every_replica_its_turn() -> None:
    workload = workload_of(SPEC)
    setting = settled(replace(SPEC, replicas=3))
    together = serve_fleet(setting, workload, router="round-robin").columns()
    alone = settled(SPEC)
    for first in range(3):
        chosen = slice(first, None, 3)
        columns = ("arrival_s", "input_len", "output_len", "prefix_len")
        part = replace(workload, **{name: getattr(workload, name)[chosen] for name in columns})
        log = serve_fleet(alone, part, router="round-robin")
        np.testing.assert_array_equal(log.finish_s, together["finish_s"][chosen])
        np.testing.assert_array_equal(log.first_token_s, together["first_token_s"][chosen])


@pytest.mark.parametrize("system", SYSTEMS)
def test_least_loaded_chooses_by_what_is_unfinished_at_each_arrival(
    system: str, choices: list[int]
) -> None:
    spec = replace(SPEC, system=system, replicas=4, rate=8.0)
    workload = workload_of(spec)
    finish_s = serve_fleet(settled(spec), workload, router="least-loaded").finish_s
    assert len(choices) == len(workload)
    assert len(set(choices)) == 4
    chosen = np.array(choices)
    for index, arrival_s in enumerate(workload.arrival_s):
        unfinished = chosen[:index][finish_s[:index] > arrival_s]
        loads = np.bincount(unfinished, minlength=4)
        assert loads[chosen[index]] == loads.min(), f"request {index}"


def test_of_equally_loaded_replicas_the_next_in_turn_is_chosen(choices: list[int]) -> None:
    spec = replace(SPEC, replicas=3, rate=0.05, duration=300.0)
    serve_fleet(settled(spec), workload_of(spec), router="least-loaded")
    assert choices == [index % 3 for index in range(len(choices))]
    assert len(choices) > 5


def test_metrics_are_sums_or_means_over_replicas() -> None:
    one = run_point(replace(SPEC, rate=1.5)).metrics
    several = run_point(replace(SPEC, replicas=4, router="least-loaded")).metrics
    assert set(several) - set(one) == {"replicas", "router"}
    assert (several["replicas"], several["router"]) == (4, "least-loaded")
    assert several["device"] == f"4 replicas of {one['device']}"
    assert several["kv_slots"] == one["kv_slots"]
    assert several["finished"] == several["requests"]
    assert several["steps"] > 2 * one["steps"]
    assert sum(several["kv_pct"].values()) == pytest.approx(100)
    default = run_point(replace(SPEC, replicas=4)).metrics
    assert default["router"] == "round-robin"
    assert default["mean_normalized_latency_s"] > several["mean_normalized_latency_s"]


def test_running_requests_are_the_mean_over_replicas() -> None:
    setting, workload = settled(replace(SPEC, replicas=3)), workload_of(SPEC)
    engines, log = create_engines(setting), RequestLog(workload)
    serve(engines, workload.requests(setting.spec.sampling), log)
    means = [engine.recorder.means(setting.config.num_slots) for engine in engines]
    running = [each.running_requests for each in means if each is not None]
    assert len(set(running)) == 3
    metrics = summarize(setting, workload, log, engines)
    assert metrics["mean_running_requests"] == pytest.approx(sum(running) / 3)
    assert metrics["steps"] == sum(engine.num_steps for engine in engines)


def test_replicas_that_run_nothing_do_not_count() -> None:
    few = replace(SPEC, rate=0.1, duration=50.0)
    workload = workload_of(few)
    many = run_point(replace(few, replicas=len(workload) + 5)).metrics
    assert 0 < many["mean_running_requests"] <= 1
    with pytest.raises(UserError, match="window"):
        run_point(replace(few, replicas=2, window=(1e6, 2e6)))


def test_beams_of_two_replicas_are_drawn_independently() -> None:
    spec = replace(SPEC, sampling="beam4", replicas=2, workload="alpaca", rate=2.0, duration=20.0)
    platforms = [engine.executor for engine in create_engines(settled(spec))]
    first, second = (executor._beams._random.random() for executor in platforms)  # type: ignore[attr-defined]
    assert first != second
    once, again = (run_point(spec).requests["finish_s"] for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_a_point_of_one_engine_keeps_its_identity() -> None:
    spec = PointSpec(system="astra")
    assert "replicas" not in spec.to_dict()
    assert "router" not in spec.to_dict()
    assert spec.digest == "e8397d82915d"  # results of older sources are found again
    assert PointSpec.from_dict(spec.to_dict()) == spec
    several = replace(spec, replicas=2, router="least-loaded")
    assert PointSpec.from_dict(several.to_dict()) == several
    assert len({spec.digest, several.digest, replace(several, replicas=3).digest}) == 3
    assert several.slug.endswith("_x2")
