"""A point's defaults, filled in for its model and device."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.point.platform import Platform
from bench.point.spec import DEFAULT_ROUTER, PointSpec, Router
from bench.workloads.build import Workload
from engines.core.config import GIB, MOST_KV_SLOTS, EngineConfig, Preemption, System
from engines.core.errors import UserError
from engines.core.models import ModelSpec
from engines.core.sampling import SamplingParams

DEFAULT_WARMUP_S = 60.0
ORCA_MAX_SEQS = 256
ASTRA_MAX_SEQS = 2048


@dataclass(frozen=True)
class Setting:
    """A spec with every default resolved for its model and device."""

    spec: PointSpec
    platform: Platform
    config: EngineConfig
    warmup_s: float
    window_s: tuple[float, float]

    @property
    def device(self) -> str:
        """All devices that serve, as results show them."""
        several = f"{self.spec.replicas} replicas of " if self.spec.replicas > 1 else ""
        return several + self.platform.device

    @property
    def router(self) -> Router:
        """What shares requests out among replicas."""
        return self.spec.router or DEFAULT_ROUTER


def settle(spec: PointSpec, platform: Platform, workload: Workload | None = None) -> Setting:
    """Fill in a point's defaults: KV slots, the system's limits, warm-up and window.

    `workload` tells the duration of a trace, and keeps the default warm-up before its last request.
    """
    config = engine_config(spec, platform, spec.sampling)
    duration_s, last_s = spec.duration, math.inf
    if workload is not None:
        duration_s, last_s = workload.duration_s, float(workload.arrival_s[-1])
    default_s = min(DEFAULT_WARMUP_S, duration_s / 10, last_s)
    warmup_s = default_s if spec.warmup is None else spec.warmup
    window_s = spec.window or (0.0, duration_s)
    return Setting(spec, platform, config, warmup_s, window_s)


def engine_config(spec: PointSpec, platform: Platform, sampling: SamplingParams) -> EngineConfig:
    """Fill in a point's defaults: slots from memory, and the system's limits."""
    model = platform.model
    num_slots = platform.default_slots() if spec.kv_slots is None else spec.kv_slots
    max_seqs = ASTRA_MAX_SEQS
    if spec.system in (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX) or spec.share_prefix:
        max_seqs = ORCA_MAX_SEQS
    # Groups of one sequence that may be recomputed never swap: they need no memory for it.
    swaps = sampling.n > 1 or spec.preemption is Preemption.SWAP or not spec.measured
    return EngineConfig(
        system=spec.system,
        num_slots=num_slots,
        swap_slots=_swap_slots(platform) if swaps else 0,
        block_size=spec.block_size,
        max_batched_tokens=spec.max_batched_tokens,
        max_num_seqs=max_seqs if spec.max_num_seqs is None else spec.max_num_seqs,
        max_batch_size=(
            max(1, num_slots * spec.shrink // model.max_positions)
            if spec.max_batch_size is None
            else spec.max_batch_size
        ),
        max_model_len=context_len(model, spec),
        preemption=spec.preemption,
        share_prefix=spec.share_prefix,
    )


def context_len(model: ModelSpec, spec: PointSpec) -> int:
    """The context in tokens after shrinking; raises UserError where none is left."""
    if spec.shrink > model.max_positions:
        raise UserError(
            f"--shrink must be at most the context of {model.name}, {model.max_positions}, got "
            f"{spec.shrink}"
        )
    return model.max_positions // spec.shrink


def _swap_slots(platform: Platform) -> int:
    """KV slots that the swap space holds; raises UserError if lists of them would not fit here."""
    slots = platform.swap_bytes // platform.model.kv_bytes_per_token
    if slots > MOST_KV_SLOTS:
        raise UserError(
            f"swap space of {platform.swap_bytes / GIB:,.0f} GiB holds more than "
            f"{MOST_KV_SLOTS:,} KV slots of {platform.model.name}: lower --swap-space"
        )
    return slots
