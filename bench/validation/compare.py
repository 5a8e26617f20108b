"""Errors of the simulation: predicted against measured, by point, by step and by term of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bench.experiments.capacity import LATENCY, Bound, capacity
from bench.validation.cases import HEAVY

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "mean_ttft_s": "TTFT",
    "mean_tpot_s": "TPOT",
    "mean_normalized_latency_s": "latency",
    "p50_normalized_latency_s": "latency p50",
    "p99_normalized_latency_s": "latency p99",
    "throughput_tok_s": "throughput",
    "mean_running_requests": "running",
}
# What was set as the aim before anything was measured, as shares: up to HEAVY load, and above it.
LIMITS = {
    "step_median": (0.03, 0.03),
    "step_p95": (0.10, 0.10),
    "mean_ttft_s": (0.10, 0.10),
    "mean_tpot_s": (0.05, 0.10),
    "mean_normalized_latency_s": (0.05, 0.10),
    "throughput_tok_s": (0.05, 0.05),
    "mean_running_requests": (0.05, 0.05),
    "sustained": (0.05, 0.05),
}
TITLES = {
    "step_median": "a step's time, median error",
    "step_p95": "a step's time, 95th percentile",
    "mean_ttft_s": "mean time to first token",
    "mean_tpot_s": "mean time per output token",
    "mean_normalized_latency_s": "mean normalized latency",
    "throughput_tok_s": "throughput",
    "mean_running_requests": "mean running requests",
    "sustained": "sustained rate",
}
KINDS = ("decode", "prompt", "beam", "copy", "swap")
ALIKE = 9  # steps in a row that tell the noise of one


def relative(predicted: float | None, measured: float | None) -> float | None:
    """The error of a prediction as a share; None where there is nothing to compare."""
    if predicted is None or measured is None or not measured:
        return None
    return predicted / measured - 1


def errors_of(
    measured: Mapping[str, Any], predicted: Mapping[str, Any], steps: Mapping[str, Any]
) -> dict[str, Any]:
    """The relative error of each metric, and two of those of `step_errors`."""
    errors = {name: relative(predicted.get(name), measured.get(name)) for name in METRICS}
    return {**errors, "step_median": steps["median"], "step_p95": steps["p95"]}


def kind_of(steps: pd.DataFrame) -> pd.Series:
    """What sets a step apart, the rarest first: swap, copy, prompt, beam, or a plain decode."""
    import numpy as np
    import pandas as pd

    tests = [steps["transfers"] > 0, steps["copy_transfers"] > 0, steps["prompts"] > 0,
             steps["beam_groups"] > 0]  # fmt: skip
    found = np.select(tests, ["swap", "copy", "prompt", "beam"], default="decode")
    return pd.Series(found, index=steps.index)


def step_errors(steps: pd.DataFrame) -> dict[str, Any]:
    """Of priced steps: median and 95th percentile of the relative error, and that of their sum."""
    error = (steps["priced"] / steps["seconds"] - 1).abs()
    return {
        "steps": len(steps),
        "median": float(error.median()),
        "p95": float(error.quantile(0.95)),
        "sum": float(steps["priced"].sum() / steps["seconds"].sum() - 1),
        "seconds": float(steps["seconds"].sum()),
    }


def step_noise(steps: pd.DataFrame) -> pd.Series:
    """Relative errors of like steps, of which only the machine makes some slower than others.

    Each plain decode step is held against the median of the ALIKE steps around it, itself included,
    where all of these decode as many sequences: their context differs by a token each.
    """
    plain = (kind_of(steps) == "decode") & (steps["decodes"] == steps["decodes"].shift())
    alike = plain.rolling(ALIKE, center=True).min() == 1
    usual = steps["seconds"].rolling(ALIKE, center=True).median()
    return (usual / steps["seconds"] - 1).abs()[alike]


def by_kind(steps: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`step_errors` of each kind of step."""
    groups = dict(list(steps.groupby(kind_of(steps))))
    return {kind: step_errors(groups[kind]) for kind in KINDS if kind in groups}


def sustained_error(
    rates: Sequence[float],
    measured: Sequence[float],
    predicted: Sequence[float],
    limit_s: float,
) -> dict[str, Any]:
    """Both curves' crossings of a latency, between the same rates, and the prediction's error.

    A curve that does not cross within the rates bounds its crossing; then there is no error.
    """
    real, simulated = (
        capacity(rates, curve, limit_s_per_token=limit_s) for curve in (measured, predicted)
    )
    exact = real.bound is simulated.bound is Bound.EXACT
    return {
        "measured": real.value,
        "predicted": simulated.value,
        "bounds": [real.bound.value, simulated.bound.value],
        "error": simulated.value / real.value - 1 if exact else None,
    }


def order_errors(measured: Mapping[str, float], predicted: Mapping[str, float]) -> list[str]:
    """Pairs that the prediction puts in the wrong order, as text."""
    return [
        f"{a} over {b}"
        for a, b in combinations(measured, 2)
        if (measured[a] - measured[b]) * (predicted[a] - predicted[b]) < 0
    ]


def judge(points: Sequence[Mapping[str, Any]], noise: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each aim beside the worst and the median error, up to HEAVY load and above, and the noise.

    `steady` is the median error of predictions that were not told the machine's speed.
    """
    found = []
    for name, limits in LIMITS.items():
        for above, limit in zip((False, True), limits, strict=True):
            ours = [point for point in points if (point["load"] > HEAVY) is above]
            errors, steady = (_sizes(ours, key, name) for key in ("errors", "steady_errors"))
            if errors:
                found.append(
                    {
                        "metric": name,
                        "above": above,
                        "limit": limit,
                        "points": len(errors),
                        "within": sum(error <= limit for error in errors),
                        "median": errors[len(errors) // 2],
                        "worst": errors[-1],
                        "steady": steady[len(steady) // 2] if steady else None,
                        "noise": noise.get(name),
                    }
                )
    return found


def _sizes(points: Sequence[Mapping[str, Any]], key: str, name: str) -> list[float]:
    """Absolute errors that are known, rising."""
    found = (point[key].get(name) for point in points)
    return sorted(abs(error) for error in found if error is not None)


def latencies(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Rates of a case's points, rising, with measured and predicted mean normalized latency."""
    ordered = sorted(points, key=lambda point: float(point["rate"]))
    return (
        [point["rate"] for point in ordered],
        [point["measured"][LATENCY] for point in ordered],
        [point["predicted"][LATENCY] for point in ordered],
    )
