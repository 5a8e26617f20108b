"""What a simulated point will cost this machine, estimated before it is served."""

from __future__ import annotations

from dataclasses import dataclass

from bench.machine import memory_bytes
from bench.point.setting import Setting
from bench.progress import clock
from bench.workloads.build import Workload
from engines.core.batch import Batch
from engines.core.config import GIB, System
from engines.core.errors import UserError

LONG_S = 60.0
LARGE_BYTES = 1e9
# Measured on one core of a server of 2023; another machine may take half or twice as long.
_STEP_S = 10e-6
_SEQUENCE_S = 25e-6
_TOKEN_S = 0.1e-6
_BEAM_TOKEN_S = 15e-6
_PROCESS_BYTES = 100e6
_REQUEST_BYTES = 100  # as rows of arrays, in the workload and in the log
_QUEUED_BYTES = 500
_ENGINE_BYTES = 10_000


@dataclass(frozen=True)
class Estimate:
    """Steps of all engines, and what they take here: seconds of one core, bytes of memory."""

    steps: float
    seconds: float
    num_bytes: float
    remedy: str

    def notice(self) -> str | None:
        """One line for a run of over a minute or 1 GB; raises UserError if it cannot fit here."""
        here = memory_bytes()
        needs = f"about {self.num_bytes / GIB:.1f} GiB of memory"
        if here is not None and self.num_bytes > here:
            raise UserError(f"{needs} are needed, and here are {here / GIB:.1f}: {self.remedy}")
        if self.seconds <= LONG_S and self.num_bytes <= LARGE_BYTES:
            return None
        duration = f"about {clock(self.seconds)} for {self.steps:,.0f} steps"
        return f"this takes {duration} and {needs}; for less, {self.remedy}"


def estimate(setting: Setting, workload: Workload) -> Estimate:
    """Estimate from the mean request and the mean rate, as if all were alike.

    By Little's law each engine runs as many requests as arrive while one is served, but no more
    than its cache holds; the rest of those that arrive wait.
    """
    spec, count = setting.spec, len(workload)
    tokens = int(workload.output_len.sum(dtype="int64"))
    most = _most_running(setting, workload)
    # A device may be given on which everything is free.
    one_s, all_s = (max(1e-9, _step_seconds(setting, workload, n)) for n in (1.0, most))
    span_s = max(float(workload.arrival_s[-1] - workload.arrival_s[0]), one_s)
    arrivals = tokens / span_s / spec.replicas  # of tokens, per engine and second
    more_s = (all_s - one_s) / max(most - 1, 1)  # of a step, for each more request in it
    spare = 1 - arrivals * more_s
    running = min(most, arrivals * (one_s - more_s) / spare) if spare > 0 else most
    steps = tokens / max(running, 1.0)
    if spec.system is System.FT:
        steps *= 2  # a batch runs to its longest output
    if spec.timeout is not None:
        step_s = one_s + max(running - 1, 0.0) * more_s
        steps = min(steps, spec.replicas * spec.timeout / step_s)
    seconds = steps * _STEP_S + spec.sampling.n * (count * _SEQUENCE_S + tokens * _TOKEN_S)
    if spec.sampling.beam:
        seconds += tokens * _BEAM_TOKEN_S
    waiting = count * max(0.0, 1 - most / all_s / arrivals)
    engines_bytes = spec.replicas * _ENGINE_BYTES
    requests_bytes = count * _REQUEST_BYTES + waiting * _QUEUED_BYTES
    shorter = "give --timeout" + (
        ", or a lower --duration" if spec.trace is None else " or --limit"
    )
    return Estimate(
        steps,
        seconds,
        _PROCESS_BYTES + engines_bytes + requests_bytes,
        "lower --replicas" if engines_bytes > requests_bytes and seconds <= LONG_S else shorter,
    )


def _most_running(setting: Setting, workload: Workload) -> float:
    """Requests of mean length that one engine's cache and limits let run at once."""
    config, n = setting.config, setting.spec.sampling.n
    held = workload.mean_input_len + workload.mean_output_len * n
    match config.system:
        case System.ASTRA:
            held -= workload.mean_output_len * n / 2
        case System.ORCA_MAX:
            held = float(config.max_model_len * n)
        case System.FT:
            held = max(held, config.num_slots / config.max_batch_size)
    return max(1.0, min(config.num_slots / held, config.max_num_seqs / n))


def _step_seconds(setting: Setting, workload: Workload, groups: float) -> float:
    """Simulated seconds of a step in which this many requests of mean length decode."""
    batch, n = Batch(), setting.spec.sampling.n
    batch.num_groups = round(groups)
    batch.num_decodes = batch.num_groups * n
    context = workload.mean_input_len + workload.mean_output_len / 2
    batch.decode_context_tokens = round(batch.num_decodes * context)
    executor = setting.platform.create_executor(setting.config, setting.spec.seed)
    return executor.execute(batch).elapsed_s
