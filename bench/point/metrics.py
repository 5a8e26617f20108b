"""What a run records of each request, and what it comes to: the metrics of `bench run`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bench.point.platform import Progress
from bench.point.setting import Setting
from bench.workloads.build import Workload
from engines.core.engine import Engine
from engines.core.errors import UserError
from engines.core.request import SequenceGroup
from engines.core.stats import StepMeans, StepRecorder

_REPORTS = 400  # of progress


class Metrics(TypedDict, total=False):
    """What a point's result may hold; what nothing was averaged for is null (NaN before)."""

    system: str
    model: str
    workload: str
    backend: str
    device: str
    rate: float
    duration: float
    seed: int
    requests: int
    finished: int
    steps: int
    mean_normalized_latency_s: float | None
    p50_normalized_latency_s: float | None
    p90_normalized_latency_s: float | None
    p99_normalized_latency_s: float | None
    mean_ttft_s: float | None
    mean_tpot_s: float | None
    throughput_tok_s: float | None
    preemptions: int
    extrapolated_steps: int
    kv_slots: int
    replicas: int
    router: str
    dropped: dict[str, int]
    mean_running_requests: float | None
    kv_pct: dict[str, float | None]
    kv_used_pct: float | None
    sharing_saving_pct: float | None
    wall_s: float | None
    host_us_per_step: float | None


class RequestLog:
    """When each request got its first and its last token.

    `on_progress` is called with the finished share of requests, 0 to 1, a few hundred times.
    """

    def __init__(self, workload: Workload, on_progress: Progress | None = None) -> None:
        self._workload = workload
        self._on_progress = on_progress
        self._period = max(1, len(workload) // _REPORTS)
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
        if self._on_progress is not None and self.num_finished % self._period == 0:
            self._on_progress(self.num_finished / len(self._workload))

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


def summarize(
    setting: Setting, workload: Workload, log: RequestLog, engines: Sequence[Engine]
) -> dict[str, Any]:
    """The result's metrics under the contract's keys, without wall-clock times.

    Latency is (finish - arrival) / output length over finished requests that arrived after the
    warm-up (paper, section 6.1); throughput is output tokens of all their sequences over the time
    to the last one. Of several replicas, steps and preemptions are sums, and running requests and
    memory are means over those that ran in the window. Where a model runs, requests that --timeout
    cut off count for latency as if they had finished then, so that overload does not look like the
    few that were served.
    """
    spec = setting.spec
    finished, ended_s = np.isfinite(log.finish_s), log.finish_s
    if spec.measured and spec.timeout is not None:
        ended_s = np.where(finished, ended_s, np.maximum(spec.timeout, workload.arrival_s))
    counted = np.isfinite(ended_s) & (workload.arrival_s >= setting.warmup_s)
    if not counted.any():
        raise UserError(
            "no request that arrived after the warm-up finished: lower --warmup or raise --timeout"
        )
    latency = ((ended_s - workload.arrival_s) / workload.output_len)[counted]
    served = counted & finished
    ttft = (log.first_token_s - workload.arrival_s)[served]
    several = served & (workload.output_len > 1)
    tpot = (log.finish_s - log.first_token_s)[several] / (workload.output_len[several] - 1)
    last_s = float(log.finish_s[finished].max()) if finished.any() else math.inf
    p50, p90, p99 = np.percentile(latency, (50, 90, 99)).tolist()
    total_tokens = int(workload.output_len[finished].sum(dtype=np.int64)) * spec.sampling.n
    metrics: dict[str, Any] = {
        "system": spec.system.value,
        "model": spec.model,
        "workload": workload.name,
        "backend": spec.backend.value,
        "device": setting.device,
        "rate": workload.rate,
        "duration": workload.duration_s,
        "seed": spec.seed,
        "requests": len(workload),
        "finished": log.num_finished,
        "steps": sum(engine.num_steps for engine in engines),
        "mean_normalized_latency_s": float(latency.mean()),
        "p50_normalized_latency_s": p50,
        "p90_normalized_latency_s": p90,
        "p99_normalized_latency_s": p99,
        "mean_ttft_s": float(ttft.mean()) if len(ttft) else None,
        "mean_tpot_s": float(tpot.mean()) if len(tpot) else None,
        "throughput_tok_s": total_tokens / last_s if last_s > 0 else math.inf,
        "preemptions": sum(engine.scheduler.num_preemptions for engine in engines),
        "kv_slots": setting.config.num_slots,
    }
    if workload.trace is not None:
        metrics["dropped"] = workload.trace["dropped"]
    if spec.replicas > 1:
        metrics |= {"replicas": spec.replicas, "router": setting.router.value}
    return metrics | _memory_metrics(setting, [engine.recorder for engine in engines])


def _memory_metrics(setting: Setting, recorders: Sequence[StepRecorder]) -> dict[str, Any]:
    found = [recorder.means(setting.config.num_slots) for recorder in recorders]
    means = [each for each in found if each is not None]
    if not means:
        start_s, end_s = setting.window_s
        raise UserError(
            f"no step fell into the window {start_s:g}:{end_s:g}: choose --window within the run"
        )
    mean = StepMeans(*(float(sum(column)) / len(means) for column in zip(*means, strict=True)))
    parts = ("token", "reservation", "internal", "external")
    return {
        "mean_running_requests": mean.running_requests,
        "kv_pct": {part: getattr(mean, f"{part}_pct") for part in parts},
        "kv_used_pct": mean.used_pct,
        "sharing_saving_pct": mean.sharing_saving_pct,
    }
