"""Run one point: workload, engine and executor put together, driven to the last request."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.point.estimate import estimate
from bench.point.ft_library import has_library, load_library
from bench.point.metrics import RequestLog, summarize
from bench.point.model import load_platform, needs_ranks, run_on_ranks
from bench.point.platform import Platform, Progress, simulate
from bench.point.replicas import serve
from bench.point.setting import Setting, context_len, settle
from bench.point.spec import PointSpec
from bench.workloads.build import Workload, build_workload
from bench.workloads.formats import parse_columns
from bench.workloads.replay import replay
from bench.workloads.tables import read_input
from bench.workloads.traces import Trace, read_trace
from engines.core.engine import Engine
from engines.core.errors import UserError
from engines.core.stats import StepRecorder
from engines.systems import create_scheduler

_COLLECT_EVERY = 50_000  # allocations
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a point yields.

    `metrics` holds the JSON keys of `bench run`. `requests` are columns of equal length:
    request_id, arrival_s, input_len, output_len, first_token_s, finish_s, preemptions.
    `inputs` names and hashes what the result depends on besides the spec: the workload, its files
    as they were read, and the device profile.
    """

    metrics: dict[str, Any]
    requests: dict[str, NDArray[Any]]
    inputs: dict[str, Any]


def run_point(
    spec: PointSpec,
    *,
    trace: Trace | None = None,
    on_progress: Progress | None = None,
    on_notice: Notice | None = None,
    ray: str = "local",
) -> Outcome:
    """Serve the point's workload to the end.

    `trace` is what `load_trace` read for the spec, if it has been read already. `on_progress` is
    called now and then with the finished share of requests, 0 to 1. `on_notice` gets one line
    before a simulation that takes long or much memory. A model in slices runs on the cluster `ray`.
    Raises UserError for input that cannot be served, and LostWorkerError if a
    process dies that holds a slice.
    """
    ranks = needs_ranks(spec, ray=ray)
    trace = trace or load_trace(spec)
    if ranks:
        return run_on_ranks(serve_on, spec, trace, ray=ray, on_progress=on_progress)
    with closing(find_platform(spec)) as platform:
        return serve_on(platform, spec, trace, on_progress=on_progress, on_notice=on_notice)


def load_trace(spec: PointSpec, *, on_progress: Progress | None = None) -> Trace | None:
    """Read the trace that the spec replays, if any; raises UserError.

    `on_progress` is called now and then with the share that is read, 0 to 1.
    """
    if spec.trace is None:
        return None
    columns = parse_columns(spec.trace_column)
    trace = read_trace(read_input(Path(spec.trace)), columns, on_progress=on_progress)
    if trace.arrival_s is not None and spec.rate != PointSpec.rate:
        raise UserError(f"{spec.trace} has arrivals: omit --rate {spec.rate:g}, or give --speed")
    return trace


def find_platform(spec: PointSpec) -> Platform:
    """Find the device of a point, with its model ready; raises UserError."""
    if not spec.measured:
        return simulate(spec)
    return load_library(spec) if has_library(spec) else load_platform(spec)


def check_simulated(spec: PointSpec) -> None:
    """Raise UserError if a simulated point has settings that cannot be served; serves nothing."""
    _prepare(simulate(spec), spec, load_trace(spec))


def serve_on(
    platform: Platform,
    spec: PointSpec,
    trace: Trace | None,
    *,
    on_progress: Progress | None,
    on_notice: Notice | None = None,
) -> Outcome:
    """Serve the point's workload on a platform to the end; see `run_point`."""
    setting, workload = _prepare(platform, spec, trace)
    if not spec.measured and (notice := estimate(setting, workload).notice()) and on_notice:
        on_notice(notice)
    engines = create_engines(setting)
    log = RequestLog(workload, on_progress)
    started = time.perf_counter()
    requests = workload.requests(spec.sampling)
    until_s = math.inf if spec.timeout is None else spec.timeout
    with _collecting_seldom():
        serve(engines, requests, log, router=setting.router, until_s=until_s)
    wall_s = time.perf_counter() - started
    metrics = summarize(setting, workload, log, engines)
    if outside := sum(getattr(each.executor, "outside", 0) for each in engines):
        metrics["extrapolated_steps"] = outside
    metrics["wall_s"] = wall_s
    metrics["host_us_per_step"] = setting.platform.host_us_per_step(
        engines[0].executor, wall_s, metrics["steps"]
    )
    return Outcome(metrics, log.columns(), _inputs(setting, workload))


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Let the garbage collector look less often: a tenth of a simulation's time, or more."""
    before = gc.get_threshold()
    gc.set_threshold(_COLLECT_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _prepare(platform: Platform, spec: PointSpec, trace: Trace | None) -> tuple[Setting, Workload]:
    """The workload, and the defaults filled in for it; raises UserError."""
    max_model_len = context_len(platform.model, spec) * spec.shrink
    if trace is None:
        workload = build_workload(
            spec.workload,
            rate=spec.rate,
            duration=spec.duration,
            seed=spec.seed,
            lengths=Path(spec.lengths) if spec.lengths else None,
            max_model_len=max_model_len,
        )
    else:
        workload = replay(trace, spec, rate=spec.rate, seed=spec.seed, max_model_len=max_model_len)
    workload = workload.shrunk(spec.shrink)
    setting = settle(spec, platform, workload)
    if not (workload.arrival_s >= setting.warmup_s).any():
        raise UserError(
            f"no request arrives after the warm-up of {setting.warmup_s:g} s: lower "
            "--warmup or raise --duration"
        )
    return setting, workload


def create_engines(setting: Setting) -> list[Engine]:
    """One engine for each replica, on devices and with random draws of its own."""
    platform, seed = setting.platform, setting.spec.seed
    children = np.random.SeedSequence(seed).spawn(setting.spec.replicas)
    seeds = [seed, *(int(child.generate_state(1)[0]) for child in children[1:])]
    return [
        Engine(
            create_scheduler(setting.config),
            platform.create_executor(setting.config, each),
            platform.create_clock(),
            recorder=StepRecorder(*setting.window_s),
        )
        for each in seeds
    ]


def _inputs(setting: Setting, workload: Workload) -> dict[str, Any]:
    files = {**setting.platform.inputs.get("files", {}), **workload.files}
    return {
        "workload": {
            "name": workload.name,
            "source": workload.source,
            "sha256": workload.sha256,
            "mean_input_len": workload.mean_input_len,
            "mean_output_len": workload.mean_output_len,
            **({} if workload.trace is None else {"trace": workload.trace}),
        },
        **{name: value for name, value in setting.platform.inputs.items() if name != "files"},
        **({"files": files} if files else {}),
    }
