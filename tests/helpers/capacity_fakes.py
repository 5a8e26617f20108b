"""Points whose latency crosses 1 s/token at a known rate, for workers to import."""

from __future__ import annotations

import numpy as np

from bench.point.platform import Progress
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from engines.core.errors import UserError

CAPACITY = {"astra": 3.0, "orca-oracle": 1.5, "orca-pow2": 1.0, "orca-max": 0.75, "ft": 0.2}
DEVICE = "1x made-up"


def capacity_of(system: str, seed: int = 0) -> float:
    """The true capacity: every seed's is 10 % higher than the one before."""
    return CAPACITY[system] * 1.1**seed


def latency_s(spec: PointSpec) -> float:
    """Flat at first, then straight, and 1 s/token exactly at the capacity."""
    load = spec.rate / capacity_of(spec.system, spec.seed)
    return 0.05 + max(0.0, load - 0.9) * 9.5


def serve(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    metrics = {
        "backend": spec.backend,
        "device": DEVICE,
        "mean_normalized_latency_s": latency_s(spec),
        "wall_s": 0.5,
        "host_us_per_step": 20.0,
    }
    return Outcome(metrics, {"request_id": np.arange(3)}, {})


def refuse_two(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.seed == 2:
        raise UserError("not with this seed")
    return serve(spec)
