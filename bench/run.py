"""Run one point: workload, engine and executor put together, driven to the last request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.backends import Platform, engine_config, find_platform
from bench.point import PointSpec
from bench.workloads.build import Workload, build_workload
from engines.core.clock import Clock
from engines.core.config import EngineConfig
from engines.core.engine import Engine
from engines.core.errors import UserError
from engines.core.request import Request, SamplingParams, SequenceGroup
from engines.core.stats import StepRecorder
from engines.factory import create_scheduler

Progress = Callable[[float], None]

DEFAULT_WARMUP_S = 60.0
PROGRESS_PERIOD_STEPS = 4096


@dataclass(frozen=True)
class Outcome:
    """What a point yields.

    `metrics` holds the JSON keys of `bench run`. `requests` are columns of equal length:
    request_id, arrival_s, input_len, output_len, first_token_s, finish_s, preemptions.
    `inputs` names and hashes what the result depends on besides the spec: the workload and the
    device profile.
    """

    metrics: dict[str, Any]
    requests: dict[str, NDArray[Any]]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A spec with every default resolved for its model and device."""

    spec: PointSpec
    platform: Platform
    config: EngineConfig
    sampling: SamplingParams
    warmup_s: float
    window_s: tuple[float, float]


def run_point(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """Serve the point's workload to the end.

    `on_progress` is called now and then with the finished share of requests, 0 to 1.
    Raises UserError for input that cannot be served.
    """
    setting = resolve(spec)
    workload = build_workload(
        spec.workload,
        rate=spec.rate,
        duration=spec.duration,
        seed=spec.seed,
        lengths=Path(spec.lengths) if spec.lengths else None,
        trace=Path(spec.trace) if spec.trace else None,
        max_model_len=setting.config.max_model_len * spec.shrink,
    ).shrunk(spec.shrink)
    _check_warmup(setting, workload)
    executor = setting.platform.executor(setting.config)
    engine = Engine(
        create_scheduler(setting.config),
        executor,
        setting.platform.clock(),
        recorder=StepRecorder(*setting.window_s),
    )
    log = RequestLog(workload)
    started = time.perf_counter()
    until_s = math.inf if spec.timeout is None else spec.timeout
    requests = workload.requests(setting.sampling)
    serve(engine, requests, log, until_s=until_s, on_progress=on_progress)
    wall_s = time.perf_counter() - started
    metrics = summarize(setting, workload, log, engine)
    metrics["wall_s"] = wall_s
    metrics["host_us_per_step"] = setting.platform.host_us_per_step(
        executor, wall_s=wall_s, steps=engine.num_steps
    )
    return Outcome(metrics, log.columns(), _inputs(setting, workload))


def resolve(spec: PointSpec) -> Setting:
    """Fill in the defaults: device, KV slots, the system's limits, warm-up and window."""
    platform = find_platform(spec)
    sampling = SamplingParams.parse(spec.sampling)
    config = engine_config(spec, platform, sampling)
    warmup_s = min(DEFAULT_WARMUP_S, spec.duration / 10) if spec.warmup is None else spec.warmup
    window_s = spec.window or (0.0, spec.duration)
    return Setting(spec, platform, config, sampling, warmup_s, window_s)


class RequestLog:
    """When each request got its first and its last token."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.first_token_s = np.full(len(workload), np.nan)
        self.finish_s = np.full(len(workload), np.nan)
        self.preemptions = np.zeros(len(workload), dtype=np.int32)
        self.num_finished = 0

    def add(self, group: SequenceGroup) -> None:
        """Record a finished request."""
        index = group.request.request_id
        assert group.first_token_s is not None
        assert group.finish_s is not None
        self.first_token_s[index] = group.first_token_s
        self.finish_s[index] = group.finish_s
        self.preemptions[index] = group.num_preemptions
        self.num_finished += 1

    def columns(self) -> dict[str, NDArray[Any]]:
        """All requests as columns, in order of arrival."""
        return {
            "request_id": np.arange(len(self._workload), dtype=np.int32),
            "arrival_s": self._workload.arrival_s,
            "input_len": self._workload.input_len,
            "output_len": self._workload.output_len,
            "first_token_s": self.first_token_s,
            "finish_s": self.finish_s,
            "preemptions": self.preemptions,
        }


def serve(
    engine: Engine,
    requests: Iterator[Request],
    log: RequestLog,
    *,
    until_s: float = math.inf,
    on_progress: Progress | None = None,
) -> None:
    """Feed requests as they arrive and step the engine until all are finished, or to `until_s`."""
    clock: Clock = engine.clock
    total = len(log.finish_s)
    upcoming = next(requests, None)
    next_report = PROGRESS_PERIOD_STEPS
    while upcoming is not None or engine.has_work:
        now = clock.now
        if now >= until_s:
            return
        while upcoming is not None and upcoming.arrival_s <= now:
            engine.add_request(upcoming)
            upcoming = next(requests, None)
        if not engine.has_work:
            assert upcoming is not None
            clock.wait_until(min(upcoming.arrival_s, until_s))
            continue
        for group in engine.step():
            log.add(group)
        if on_progress is not None and engine.num_steps >= next_report:
            next_report += PROGRESS_PERIOD_STEPS
            on_progress(log.num_finished / total)


def summarize(
    setting: Setting, workload: Workload, log: RequestLog, engine: Engine
) -> dict[str, Any]:
    """The result's metrics under the contract's keys, without wall-clock times.

    Latency is (finish - arrival) / output length over finished requests that arrived after the
    warm-up (paper, section 6.1); throughput is output tokens of all their sequences over the time
    to the last one.
    """
    spec = setting.spec
    finished = np.isfinite(log.finish_s)
    counted = finished & (workload.arrival_s >= setting.warmup_s)
    if not counted.any():
        raise UserError(
            "no request that arrived after the warm-up finished: lower --warmup or raise --timeout"
        )
    arrival_s, output_len = workload.arrival_s[counted], workload.output_len[counted]
    first_s, finish_s = log.first_token_s[counted], log.finish_s[counted]
    latency = (finish_s - arrival_s) / output_len
    several = output_len > 1
    tpot = (finish_s - first_s)[several] / (output_len[several] - 1)
    p50, p90, p99 = np.percentile(latency, (50, 90, 99)).tolist()
    total_tokens = int(workload.output_len[finished].sum(dtype=np.int64)) * setting.sampling.n
    metrics: dict[str, Any] = {
        "system": spec.system,
        "model": spec.model,
        "workload": workload.name,
        "backend": spec.backend,
        "device": setting.platform.device,
        "rate": spec.rate,
        "duration": spec.duration,
        "seed": spec.seed,
        "requests": len(workload),
        "finished": log.num_finished,
        "steps": engine.num_steps,
        "mean_normalized_latency_s": float(latency.mean()),
        "p50_normalized_latency_s": p50,
        "p90_normalized_latency_s": p90,
        "p99_normalized_latency_s": p99,
        "mean_ttft_s": float((first_s - arrival_s).mean()),
        "mean_tpot_s": float(tpot.mean()) if several.any() else None,
        "throughput_tok_s": total_tokens / float(log.finish_s[finished].max()),
        "preemptions": engine.scheduler.num_preemptions,
        "kv_slots": setting.config.num_slots,
    }
    return metrics | _memory_metrics(setting, engine.recorder)


def _memory_metrics(setting: Setting, recorder: StepRecorder) -> dict[str, Any]:
    means = recorder.means(setting.config.num_slots)
    if means is None:
        start_s, end_s = setting.window_s
        raise UserError(
            f"no step fell into the window {start_s:g}:{end_s:g}: choose --window "
            f"within the {setting.spec.duration:g} s of the run"
        )
    return {
        "mean_running_requests": means.running_requests,
        "kv_pct": {
            "token": means.token_pct,
            "reservation": means.reservation_pct,
            "internal": means.internal_pct,
            "external": means.external_pct,
        },
        "kv_used_pct": means.used_pct,
        "sharing_saving_pct": means.sharing_saving_pct,
    }


def _check_warmup(setting: Setting, workload: Workload) -> None:
    if not (workload.arrival_s >= setting.warmup_s).any():
        raise UserError(
            f"no request arrives after the warm-up of {setting.warmup_s:g} s: lower "
            "--warmup or raise --duration"
        )


def _inputs(setting: Setting, workload: Workload) -> dict[str, Any]:
    return {
        "workload": {
            "name": workload.name,
            "source": workload.source,
            "sha256": workload.sha256,
            "mean_input_len": workload.mean_input_len,
            "mean_output_len": workload.mean_output_len,
        },
        **setting.platform.inputs(),
    }
