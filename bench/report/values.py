"""The report as plain values, for machines."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.claims.comparison import Comparison
from bench.claims.verdicts import Verdict, reason_text
from bench.experiments import registry
from bench.experiments.capacity import LIMIT_S_PER_TOKEN, Bound, Estimate
from bench.report.wording import headline

if TYPE_CHECKING:
    from bench.report.build import CurveCapacity, Report


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "backend": report.choice.backend,
        "effort": report.choice.effort.value,
        "overrides": dict(report.choice.overrides),
        "headline": headline(report),
        "claims": [_verdict_values(verdict) for verdict in report.verdicts],
        "limit_s_per_token": LIMIT_S_PER_TOKEN,
        "capacities": [_capacity_values(row) for row in report.capacities],
        "problems": list(report.problems),
        "pending": dict(report.pending),
        "calibrations": [asdict(item) for item in registry.CALIBRATIONS],
        "figures": {name: asdict(progress) for name, progress in report.progress.items()},
        "reference": _reference_values(report.reference),
        "provenance": asdict(report.summary),
    }


def _reference_values(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    counts = ("num_reference", "num_compared", "num_equal", "num_close", "num_other")
    return {
        "directory": found.directory.as_posix(),
        "tolerance": found.tolerance,
        **{name: found.total(name) for name in counts},
        "num_unknown": found.num_unknown,
        "lines": list(found.lines),
    }


def _verdict_values(verdict: Verdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "figure": verdict.figure,
        "path": claim.path,
        "claim": claim.text,
        "unit": claim.unit,
        "paper": list(claim.paper) if isinstance(claim.paper, tuple) else claim.paper,
        "ours": _estimate_values(verdict.ours),
        "deviation": verdict.deviation,
        "tolerance": claim.tolerance,
        "kind": claim.kind,
        "verdict": verdict.status.value,
        "reason": reason_text(verdict),
        "basis": None if verdict.ours is None else verdict.basis,
        "calibrated": claim.calibrated,
        "backend": verdict.backend,
        "method": verdict.measurement.method,
        "interval_95": verdict.measurement.interval and list(verdict.measurement.interval),
        "devices": list(verdict.measurement.devices),
        "seeds": list(verdict.measurement.seeds),
        "stale": verdict.measurement.stale,
        "absent": list(verdict.measurement.absent),
    }


def _capacity_values(row: CurveCapacity) -> dict[str, Any]:
    return {
        "panel": row.panel,
        "system": row.system,
        "capacity_req_s": _estimate_values(row.capacity),
        "astra_over_it": _estimate_values(row.ratio),
        "searched_req_s": None if row.searched is None else asdict(row.searched),
        "points": row.num_sound,
        "points_registered": row.num_points,
    }


def _estimate_values(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    assert math.isfinite(estimate.value), "an estimate is a finite number"
    names = {Bound.EXACT: "exact", Bound.AT_LEAST: "at least", Bound.AT_MOST: "at most"}
    return {"value": estimate.value, "bound": names[estimate.bound]}
