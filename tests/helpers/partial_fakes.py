"""A store in memory that holds part of the registry's points, for plots and reports."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec
from bench.results.store import Check, State

Metrics = Callable[[PointSpec], dict[str, Any]]
KV_PCT = {"token": 40.0, "reservation": 25.0, "internal": 5.0, "external": 30.0}


def sound(spec: PointSpec) -> dict[str, Any]:
    """What a point that ended well has: latency passes the limit at some rate of most curves."""
    return {
        "mean_normalized_latency_s": 0.05 + 0.04 * spec.rate,
        "mean_running_requests": 7.5,
        "kv_used_pct": 70.0,
        "sharing_saving_pct": 12.5,
        "throughput_tok_s": 300.0,
        **{f"kv_pct_{category}": value for category, value in KV_PCT.items()},
    }


def without_latency(spec: PointSpec) -> dict[str, Any]:
    """A point none of whose requests finished."""
    return {
        **sound(spec),
        "mean_normalized_latency_s": float("nan"),
        "mean_running_requests": 0.0,
        "kv_used_pct": 0.0,
        "sharing_saving_pct": 0.0,
        "throughput_tok_s": 0.0,
        **{f"kv_pct_{category}": 0.0 for category in KV_PCT},
    }


def without_numbers(spec: PointSpec) -> dict[str, Any]:
    """A point every metric of which is missing."""
    return dict.fromkeys(sound(spec), float("nan"))


def bare(spec: PointSpec) -> dict[str, Any]:
    """A point that records no metric at all."""
    del spec
    return {}


@dataclass(frozen=True)
class PartialStore:
    """Holds the points in `held`, with what `metrics` gives for each; `stale` marks them so."""

    held: frozenset[PointSpec]
    metrics: Metrics = sound
    stale: bool = False
    root: Path = Path("no-such-folder")

    def load(self, specs: Iterable[PointSpec]) -> pd.DataFrame:
        """See `bench.results.store.Store.load`."""
        rows = [self._row(spec) for spec in specs if spec in self.held]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["digest", "stale"])

    def check(self, spec: PointSpec) -> Check:
        """See `bench.results.store.Store.check`."""
        return Check(State.COMPLETE if spec in self.held else State.MISSING)

    def kernels(self, part: str, *, backend: str) -> None:
        """Nothing was measured."""

    def load_record(self, spec: PointSpec) -> dict[str, Any]:
        """See `bench.results.store.Store.load_record`."""
        return {"provenance": {"source_sha256": "0"}, "metrics": self.metrics(spec), "inputs": {}}

    def _row(self, spec: PointSpec) -> dict[str, Any]:
        row = {**spec.to_dict(), "digest": spec.digest, "stale": self.stale, "device": "1x made-up"}
        return {**row, **self.metrics(spec)}


def half(specs: Sequence[PointSpec], seed: int) -> list[PointSpec]:
    """Every second point, by chance."""
    return random.Random(seed).sample(list(specs), len(specs) // 2)


def states(points: Sequence[PointSpec]) -> dict[str, PartialStore]:
    """Partial states of some points by name."""
    mixed = set(half(points, 3))

    def some_without_latency(spec: PointSpec) -> dict[str, Any]:
        return without_latency(spec) if spec in mixed else sound(spec)

    whole = frozenset(points)
    return {
        "empty": PartialStore(frozenset()),
        "the first point": PartialStore(frozenset(points[:1])),
        "the last point": PartialStore(frozenset(points[-1:])),
        "one half": PartialStore(frozenset(half(points, 1))),
        "another half, stale": PartialStore(frozenset(half(points, 2)), stale=True),
        "no request finished": PartialStore(whole, without_latency),
        "at some points no request finished": PartialStore(whole, some_without_latency),
        "no numbers": PartialStore(whole, without_numbers),
        "no metrics": PartialStore(whole, bare),
        "one point without a latency": PartialStore(frozenset(points[:1]), without_latency),
    }


def points_of(name: str, choice: Choice) -> list[PointSpec]:
    """All points of a name of the registry under a choice."""
    panels = registry.find(name).panels
    return list(dict.fromkeys(spec for panel in panels for spec in choice.points(panel)))
