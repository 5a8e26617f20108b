"""Points whose latency crosses 1 s/token at a known rate, for workers to import."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from driver_fakes import provenance

from bench.experiments import registry
from bench.point.platform import Progress
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.results.store import Store
from engines.core.errors import UserError

CAPACITY = {"astra": 1.6, "orca-oracle": 0.8, "orca-pow2": 0.6, "orca-max": 0.5, "ft": 0.2}
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
        "mean_running_requests": 7.0,
        "kv_pct": {"token": 40.0, "reservation": 25.0, "internal": 0.0, "external": 35.0},
        "wall_s": 0.5,
        "host_us_per_step": 20.0,
    }
    return Outcome(metrics, {"request_id": np.arange(3)}, {})


def serve_with_noise(
    spec: PointSpec, *, noise: float, on_progress: Progress | None = None
) -> Outcome:
    """Astra's capacity differs between seeds by up to a share `noise`, the others' do not."""
    own = 1 + noise * math.sin(3 * spec.seed) if spec.system == "astra" else 1.0
    return serve(replace(spec, rate=spec.rate * own))


def refuse_two(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    if spec.seed == 2:
        raise UserError("not with this seed")
    return serve(spec)


def put(store: Store, spec: PointSpec, *, factor: float = 1.0) -> float:
    """Write a point, its latency times `factor`; returns the latency in s/token."""
    outcome = serve(spec)
    latency = latency_s(spec) * factor
    metrics = {**outcome.metrics, "mean_normalized_latency_s": latency}
    origin = provenance(spec, store.source, git_commit="c0ffee", packages={"numpy": "2"})
    store.write(spec, replace(outcome, metrics=metrics), provenance=origin)
    return latency


def fill(store: Store, *names: str, factor: float = 1.0, **overrides: Any) -> None:
    """Write all points of figures or panels."""
    for name in names:
        for spec in registry.find(name).figures[0].points(**overrides):
            put(store, spec, factor=factor)
