"""One point from spec to metrics: defaults, windows, and the keys that others read."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_devices import write_profile

import bench.point.serve
from bench.point.platform import simulate
from bench.point.serve import Outcome, run_point
from bench.point.setting import Setting, settle
from bench.point.spec import PointSpec
from engines.core.config import GIB
from engines.core.errors import UserError

KEYS = {
    "system", "model", "workload", "backend", "device", "rate", "duration", "seed", "requests",
    "finished", "steps", "mean_normalized_latency_s", "p50_normalized_latency_s",
    "p90_normalized_latency_s", "p99_normalized_latency_s", "mean_ttft_s", "mean_tpot_s",
    "throughput_tok_s", "mean_running_requests", "preemptions", "kv_slots", "kv_pct",
    "sharing_saving_pct", "wall_s", "host_us_per_step", "kv_used_pct",
}  # fmt: skip
SYSTEMS = ["astra", "orca-oracle", "orca-pow2", "orca-max", "ft"]


def settled(spec: PointSpec) -> Setting:
    return settle(spec, simulate(spec))


def small(system: str = "astra", **values: Any) -> PointSpec:
    settings: dict[str, Any] = {"workload": "alpaca", "rate": 3.0, "duration": 20.0}
    return PointSpec(system=system, **(settings | values))


def run_trace(
    folder: Path, system: str, rows: list[str], *, step_s: float = 1.0, **values: Any
) -> Outcome:
    """Replay rows of a trace on a device that takes 1 s a step and nothing else."""
    trace = folder / "trace.csv"
    trace.write_text("\n".join(["arrival_s,input_len,output_len", *rows]) + "\n")
    profile = write_profile(folder / "step.toml", step_overhead_s=step_s)
    defaults: dict[str, Any] = {"warmup": 0.0, "kv_slots": 4096, "max_batch_size": 2}
    spec = PointSpec(
        system=system,
        model="opt-125m",
        trace=str(trace),
        device_profile=str(profile),
        **(defaults | values),
    )
    return run_point(spec)


@pytest.mark.parametrize("system", SYSTEMS)
def test_metrics_have_the_contracts_keys(system: str) -> None:
    """Exactly these; all requests are finished and every number is finite."""
    outcome = run_point(small(system))
    metrics = outcome.metrics
    assert metrics.keys() == KEYS
    assert set(metrics["kv_pct"]) == {"token", "reservation", "internal", "external"}
    assert sum(metrics["kv_pct"].values()) == pytest.approx(100)
    assert metrics["finished"] == metrics["requests"] == len(outcome.requests["request_id"]) > 20
    numbers = [v for v in metrics.values() if isinstance(v, float)]
    assert np.isfinite(numbers).all()
    assert (metrics["system"], metrics["workload"], metrics["backend"]) == (system, "alpaca", "sim")
    assert set(outcome.requests) == {
        "request_id", "arrival_s", "input_len", "output_len", "first_token_s", "finish_s",
        "preemptions",
    }  # fmt: skip
    assert {len(column) for column in outcome.requests.values()} == {metrics["requests"]}


@pytest.mark.parametrize(
    ("system", "latencies", "ttft", "steps"),
    [
        ("astra", [3 / 3, 2.5 / 2], [1.0, 1.5], 3),
        ("orca-oracle", [3 / 3, 2.5 / 2], [1.0, 1.5], 3),
        ("ft", [3 / 3, 4.5 / 2], [1.0, 3.5], 5),
    ],
)
def test_metrics_by_hand(
    tmp_path: Path, system: str, latencies: list[float], ttft: list[float], steps: int
) -> None:
    """Two requests, of 3 tokens at 0 s and of 2 at 0.5 s, on steps of 1 s."""
    metrics = run_trace(tmp_path, system, ["0,4,3", "0.5,4,2"]).metrics
    assert metrics["steps"] == steps
    assert metrics["mean_normalized_latency_s"] == pytest.approx(np.mean(latencies))
    assert metrics["p50_normalized_latency_s"] == pytest.approx(np.mean(latencies))
    assert metrics["mean_ttft_s"] == pytest.approx(np.mean(ttft))
    assert metrics["mean_tpot_s"] == pytest.approx(1.0)
    assert metrics["throughput_tok_s"] == pytest.approx(5 / steps)
    assert metrics["device"] == "1x step"


def test_outputs_of_one_token_have_no_time_per_token(tmp_path: Path) -> None:
    """There is no second token to wait for."""
    assert run_trace(tmp_path, "astra", ["0,4,1", "3,4,1"]).metrics["mean_tpot_s"] is None


def test_throughput_counts_all_sequences(tmp_path: Path) -> None:
    """A group of four makes four outputs."""
    metrics = run_trace(tmp_path, "astra", ["0,4,5"], sampling="n4").metrics
    assert metrics["throughput_tok_s"] == pytest.approx(4 * 5 / 5)
    assert metrics["mean_normalized_latency_s"] == pytest.approx(1.0)


def test_a_device_on_which_everything_is_free(tmp_path: Path) -> None:
    """All is done at the moment of arrival: no time, an endless rate."""
    metrics = run_trace(tmp_path, "astra", ["0,10,3", "0,10,4"], step_s=0.0).metrics
    assert metrics["mean_normalized_latency_s"] == 0
    assert metrics["throughput_tok_s"] == math.inf


def test_warmup_drops_early_arrivals_from_latency(tmp_path: Path) -> None:
    """The first request waits for nothing, the second one 0.5 s: with a warm-up it alone counts."""
    rows = ["0,4,1", "1.5,4,1"]
    whole = run_trace(tmp_path, "astra", rows).metrics
    assert whole["mean_normalized_latency_s"] == pytest.approx((1 + 1) / 2)
    rows = ["0,4,4", "1.5,4,1", "1.6,4,1"]
    late = run_trace(tmp_path, "astra", rows, warmup=1.55).metrics
    assert late["mean_ttft_s"] == pytest.approx(3 - 1.6)
    assert (late["requests"], late["finished"]) == (3, 3)
    with pytest.raises(UserError, match=r"after the warm-up of 2 s: lower --warmup"):
        run_trace(tmp_path, "astra", rows, warmup=2.0)


def test_window_bounds_the_steps_that_are_averaged(tmp_path: Path) -> None:
    """One request runs from 0 to 2 s, two from 2 to 4 s."""
    rows = ["0,4,4", "1.5,4,2"]
    for window, running in (((0.0, 4.0), 1.5), ((0.0, 2.0), 1.0), ((2.0, 9.0), 2.0)):
        metrics = run_trace(tmp_path, "astra", rows, window=window).metrics
        assert metrics["mean_running_requests"] == pytest.approx(running)
    with pytest.raises(UserError, match=r"no step fell into the window 50:60: choose --window"):
        run_trace(tmp_path, "astra", rows, window=(50.0, 60.0))


def test_timeout_leaves_requests_unfinished(tmp_path: Path) -> None:
    """Serving ends at the step in which the time is over; what finished counts."""
    rows = ["0,4,2", "0,4,50", "20,4,2"]
    outcome = run_trace(tmp_path, "astra", rows, timeout=10.0)
    assert (outcome.metrics["requests"], outcome.metrics["finished"]) == (3, 1)
    assert outcome.metrics["steps"] == 10
    assert outcome.metrics["throughput_tok_s"] == pytest.approx(1.0)
    assert np.isnan(outcome.requests["finish_s"]).tolist() == [False, True, True]
    with pytest.raises(UserError, match="no request that arrived after the warm-up finished"):
        run_trace(tmp_path, "astra", ["0,4,50"], timeout=10.0)


def test_where_a_model_runs_requests_cut_off_count_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what overload leaves unfinished, at least the wait so far is known."""
    simulated = bench.point.serve.find_platform
    monkeypatch.setattr(
        bench.point.serve,
        "find_platform",
        lambda spec, **_: simulated(replace(spec, backend="sim")),
    )

    def run(*rows: str) -> dict[str, Any]:
        return run_trace(tmp_path, "astra", list(rows), timeout=10.0, backend="cpu").metrics

    metrics = run("0,4,2", "2,4,50", "20,4,2")
    assert (metrics["requests"], metrics["finished"]) == (3, 1)
    expected = [(2 - 0) / 2, (10 - 2) / 50, 0.0]
    assert metrics["mean_normalized_latency_s"] == pytest.approx(np.mean(expected))
    assert metrics["mean_ttft_s"] == pytest.approx(1.0)
    none = run("0,4,50")
    assert (none["mean_normalized_latency_s"], none["throughput_tok_s"]) == (10 / 50, 0.0)
    assert none["mean_ttft_s"] is none["mean_tpot_s"] is None


@pytest.mark.parametrize(
    ("model", "profile", "degree", "slots"),
    [
        ("opt-13b", "a100-40gb", 1, 15_700),
        ("opt-66b", "a100-40gb", 4, 9_700),
        ("opt-175b", "a100-80gb", 8, 60_100),
        ("llama-13b", "a100-40gb", 1, 15_700),
    ],
)
def test_defaults_are_the_papers_server(model: str, profile: str, degree: int, slots: int) -> None:
    setting = settled(PointSpec(system="astra", model=model))
    assert setting.platform.device == f"{degree}x {profile}"
    assert setting.config.num_slots == slots
    swapped_bytes = setting.config.swap_slots * setting.platform.model.kv_bytes_per_token
    assert swapped_bytes == pytest.approx(20 * GIB * degree, rel=1e-3)


ORIGINAL = {"max_batched_tokens": 2560, "block_size": 16, "watermark": 0.01}


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"system": "astra"}, ORIGINAL | {"max_num_seqs": 2048}),
        ({"system": "orca-max"}, ORIGINAL | {"max_num_seqs": 256}),
        ({"system": "astra", "share_prefix": True}, {"max_num_seqs": 256}),
        ({"system": "orca-max", "max_num_seqs": 9}, {"max_num_seqs": 9}),
        ({"system": "ft"}, {"max_batch_size": 15_700 // 2048}),  # whole contexts
        ({"system": "ft", "kv_slots": 100}, {"max_batch_size": 1, "num_slots": 100}),
        ({"system": "ft", "max_batch_size": 3}, {"max_batch_size": 3}),
    ],
)
def test_limits_are_as_set_or_the_original_artifacts(
    values: dict[str, Any], limits: dict[str, Any]
) -> None:
    config = settled(PointSpec(**values)).config
    assert {name: getattr(config, name) for name in limits} == limits


def test_own_devices_and_swap_space_replace_the_papers() -> None:
    server = {"device_profile": "a100-80gb", "tensor_parallel": 2, "swap_space_gib": 1.0}
    setting = settled(PointSpec(system="ft", **server))
    assert setting.platform.device == "2x a100-80gb"
    assert setting.config.swap_slots == 2 * GIB // setting.platform.model.kv_bytes_per_token


@pytest.mark.parametrize(
    ("values", "warmup_s", "window_s"),
    [
        ({}, 2.0, (0.0, 20.0)),
        ({"duration": 600.0}, 60.0, (0.0, 600.0)),
        ({"warmup": 5.0, "window": (1.0, 2.0)}, 5.0, (1.0, 2.0)),
    ],
)
def test_warmup_is_a_minute_or_a_tenth_and_the_window_whole(
    values: dict[str, Any], warmup_s: float, window_s: tuple[float, float]
) -> None:
    setting = settled(small(**values))
    assert (setting.warmup_s, setting.window_s) == (warmup_s, window_s)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"rate": 0.0}, "rate must be a positive number, got 0"),
        ({"rate": float("nan")}, "rate must be a positive number, got nan"),
        ({"duration": -1.0}, "duration must be a positive number, got -1"),
        ({"duration": 1e9}, "duration must be at most 1,000,000, got 1,000,000,000.0"),
        ({"warmup": -1.0}, "warmup must not be negative, got -1"),
        ({"timeout": 0.0}, "timeout must be positive, got 0"),
        ({"swap_space_gib": -1.0}, "swap space must not be negative, got -1"),
        ({"swap_space_gib": float("nan")}, "swap space must not be negative, got nan"),
        (
            {"gpu_memory": "40"},
            "memory size '40' is not understood: write it as 40GiB or 512MiB",
        ),
        ({"tensor_parallel": 0}, "tensor-parallel degree must be at least 1, got 0"),
        (
            {"backend": "tpu"},
            "unknown backend 'tpu': did you mean cpu? known: auto, cpu, cuda, sim",
        ),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"preemption": "never"}, "unknown preemption 'never': known: auto, recompute, swap"),
        ({"window": (5.0, 5.0)}, "window must be START:END with 0 <= START < END, got (5.0, 5.0)"),
    ],
)
def test_points_out_of_range(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        small(**values)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model": "opt-13"}, "unknown model 'opt-13': did you mean opt-13b"),
        ({"workload": "alpacca"}, "unknown workload 'alpacca': did you mean alpaca"),
        ({"device_profile": "a100"}, "unknown device profile 'a100'"),
        ({"tensor_parallel": 3}, "tensor-parallel degree 3 does not divide the 40 heads"),
        ({"model": "opt-175b", "tensor_parallel": 1}, "opt-175b does not fit"),
        ({"kv_slots": 100}, "raise --kv-slots"),
        ({"trace": "nowhere.csv", "duration": 600.0}, "nowhere.csv"),
    ],
)
def test_points_that_cannot_be_served(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        run_point(small(**values))
    message = str(caught.value)
    assert problem in message
    assert "\n" not in message


def test_progress_rises_to_at_most_one() -> None:
    shares: list[float] = []
    run_point(small(rate=6.0, duration=120.0, system="orca-max"), on_progress=shares.append)
    assert shares
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_inputs_are_named_and_hashed() -> None:
    inputs = run_point(small()).inputs
    assert inputs["workload"]["name"] == "alpaca"
    assert len(inputs["workload"]["sha256"]) == len(inputs["device_profile"]["sha256"]) == 64
    assert inputs["device_profile"]["name"] == "a100-40gb"


LONG_RUN = """
import resource
from bench.point.spec import PointSpec
from bench.point.serve import run_point
outcome = run_point(PointSpec(system="astra", rate=2.0, duration=3600.0))
assert outcome.metrics["finished"] > 6000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only"
)
def test_an_hours_trace_stays_under_a_gibibyte() -> None:
    """The paper's trace length, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LONG_RUN], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < GIB


@pytest.fixture
def mean_tpot(tmp_path: Path) -> Callable[..., float]:
    """Time per token of a point on a device of given terms, 0 s a step unless told otherwise."""

    def measure(terms: dict[str, float], **values: Any) -> float:
        profile = write_profile(tmp_path / "terms.toml", **({"step_overhead_s": 0.0} | terms))
        tpot: float = run_point(small(device_profile=str(profile), **values)).metrics["mean_tpot_s"]
        return tpot

    return measure


def test_a_device_that_serves_in_fp32_reads_twice_the_bytes(
    mean_tpot: Callable[..., float],
) -> None:
    half, full = (mean_tpot({"weight_bandwidth": 1e11, "element_bytes": n}) for n in (2, 4))
    assert full == pytest.approx(2 * half, rel=0.01)


def test_the_simulation_draws_no_tokens_where_the_original_decodes_greedily(
    mean_tpot: Callable[..., float],
) -> None:
    server = {"model": "llama-13b", "kv_slots": 15_700, "rate": 0.01, "duration": 400.0}
    terms = {"step_overhead_s": 1.0, "draw_overhead_s": 1.0}
    assert mean_tpot(terms, workload="translation-1shot", **server) == pytest.approx(1.0)
    assert mean_tpot(terms, workload="alpaca", **server) > 1.9
