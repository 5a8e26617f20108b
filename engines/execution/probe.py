"""Engines over models of any shape, built for measuring: no checkpoint, no installation needed.

Used by the device profile, the check of a GPU and the benchmark of the models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from engines.core.clock import WallClock
from engines.core.config import EngineConfig, System
from engines.core.engine import Engine
from engines.core.models import ModelSpec
from engines.core.request import Request
from engines.core.stats import StepRecorder
from engines.execution.torch_executor import TorchExecutor
from engines.kernels.interface import Kernels
from engines.models import load
from engines.models.builder import WeightSource
from engines.models.interfaces import Communicator, Model
from engines.models.spec import arch_from_spec
from engines.systems import create_scheduler

WARM_STEPS = 4  # a CUDA graph is captured the second time that a step of its kind runs


@dataclass(frozen=True)
class StepTimes:
    """Decode steps: wall time of each and how much of it was the model's."""

    step_s: tuple[float, ...]
    model_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The median step."""
        return statistics.median(self.step_s)

    @property
    def host_s(self) -> float:
        """Median time of a step outside the model: scheduling, sampling, bookkeeping."""
        pairs = zip(self.step_s, self.model_s, strict=True)
        return statistics.median(step - model for step, model in pairs)


def build_model(
    spec: ModelSpec,
    *,
    dtype: torch.dtype,
    device: str,
    source: WeightSource | None = None,
) -> Model:
    """Build a model of any shape with dummy weights, or with those of `source`."""
    place = torch.device(device)
    source = source or load.dummy_weights(spec, 0, place)
    spec = replace(spec, dtype_bytes=dtype.itemsize)
    arch = arch_from_spec(spec)
    return load.build_model(spec, arch, source, Communicator(), dtype=dtype, device=place)


def narrow_spec(spec: ModelSpec) -> ModelSpec:
    """As many layers and tokens in the vocabulary as `spec`, with next to no arithmetic in them."""
    return ModelSpec(
        name=f"narrow-{spec.name}",
        family="opt",
        num_layers=spec.num_layers,
        num_heads=1,
        hidden_size=64,
        ffn_size=64,
        vocab_size=spec.vocab_size,
        max_positions=spec.max_positions,
        embedding_size=8,
    )


def build_engine(
    model: Model, kernels: Kernels, config: EngineConfig
) -> tuple[Engine, TorchExecutor]:
    """Return an engine over a model, on the wall clock, and its executor."""
    executor = TorchExecutor(model, kernels, config)
    recorder = StepRecorder(0.0, 0.0)
    return Engine(create_scheduler(config), executor, WallClock(), recorder=recorder), executor


def serve(engine: Engine, requests: Sequence[Request]) -> list[list[list[int]]]:
    """Serve requests that are all there at the start; returns each one's outputs."""
    groups = [engine.add_request(request) for request in requests]
    while engine.has_work:
        engine.step()
    return [[s.output_token_ids for s in group.sequences] for group in groups]


def time_decode_steps(
    model: Model, kernels: Kernels, *, num_seqs: int, context_len: int, steps: int
) -> StepTimes:
    """Time decode steps of Astra at `num_seqs` running sequences of about `context_len` tokens.

    Neither steps with prompts nor the first WARM_STEPS without count.
    """
    engine, executor = start_decoding(
        model, kernels, num_seqs=num_seqs, context_len=context_len, steps=WARM_STEPS + steps
    )
    samples = [_time_step(engine, executor) for _ in range(WARM_STEPS + steps)][WARM_STEPS:]
    assert len(engine.scheduler.running) == num_seqs, "a sequence ended while steps were timed"
    step_s, model_s = zip(*samples, strict=True)
    return StepTimes(step_s, model_s)


def start_decoding(
    model: Model, kernels: Kernels, *, num_seqs: int, context_len: int, steps: int
) -> tuple[Engine, TorchExecutor]:
    """Return Astra with `num_seqs` sequences whose next `steps` steps decode all of them."""
    batched = max(2560, context_len + num_seqs)
    admissions = -(-num_seqs // max(1, (batched - num_seqs) // context_len))
    output_len = admissions + steps + 1
    blocks = num_seqs * (-(-(context_len + output_len) // 16) + 1)
    config = EngineConfig(
        system=System.ASTRA,
        num_slots=16 * blocks,
        max_batched_tokens=batched,
        max_model_len=model.spec.max_positions,
        watermark=0.0,
    )
    engine, executor = build_engine(model, kernels, config)
    for i in range(num_seqs):
        engine.add_request(Request(i, 0.0, context_len, output_len))
    while engine.scheduler.waiting:
        engine.step()
    return engine, executor


def _time_step(engine: Engine, executor: TorchExecutor) -> tuple[float, float]:
    """Seconds of one step, and of its forward pass."""
    model_before, started = executor.timing.model_s, time.perf_counter()
    engine.step()
    return time.perf_counter() - started, executor.timing.model_s - model_before
