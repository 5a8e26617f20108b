"""Errors of the simulation: predicted against measured, by point, by step and by term of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bench.experiments.capacity import LATENCY, Bound, capacity
from bench.validation.cases import HEAVY

if TYPE_CHECKING:
    import pandas as pd

METRICS = (
    "mean_ttft_s",
    "mean_tpot_s",
    "mean_normalized_latency_s",
    "p50_normalized_latency_s",
    "p99_normalized_latency_s",
    "throughput_tok_s",
    "mean_running_requests",
)
# What was set as the aim before anything was measured: how far off, as shares, predictions may be
# up to HEAVY load, and above it.
AIMS = {
    "step_median": ("a step's time, median error", 0.03, 0.03),
    "step_p95": ("a step's time, 95th percentile", 0.10, 0.10),
    "mean_ttft_s": ("mean time to first token", 0.10, 0.10),
    "mean_tpot_s": ("mean time per output token", 0.05, 0.10),
    "mean_normalized_latency_s": ("mean normalized latency", 0.05, 0.10),
    "throughput_tok_s": ("throughput", 0.05, 0.05),
    "mean_running_requests": ("mean running requests", 0.05, 0.05),
    "sustained": ("sustained rate", 0.05, 0.05),
}
TITLES = {name: title for name, (title, _, _) in AIMS.items()}
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

    swapped = steps["blocks_in"] + steps["blocks_out"]
    tests = [swapped > 0, *(steps[n] > 0 for n in ("copied_blocks", "prompts", "beam_groups"))]
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


def sustained_error(points: Iterable[Mapping[str, Any]], limit_s: float) -> dict[str, Any]:
    """Where both curves of a case cross a latency, between the same rates; the prediction's error.

    A curve that does not cross within the rates bounds its crossing; then there is no error.
    """
    ordered = sorted(points, key=lambda point: float(point["rate"]))
    rates = [point["rate"] for point in ordered]
    real, simulated = (
        capacity(rates, [point[side][LATENCY] for point in ordered], limit_s_per_token=limit_s)
        for side in ("measured", "predicted")
    )
    exact = real.bound is simulated.bound is Bound.EXACT
    return {
        "measured": real.value,
        "predicted": simulated.value,
        "bounds": [real.bound.value, simulated.bound.value],
        "error": simulated.value / real.value - 1 if exact else None,
    }


def order_errors(sustained: Iterable[Mapping[str, Any]]) -> list[str]:
    """Pairs of systems whose sustained rates are predicted in the wrong order, as text."""
    return [
        f"{a['system']} over {b['system']}"
        for a, b in combinations(sustained, 2)
        if (a["measured"] - b["measured"]) * (a["predicted"] - b["predicted"]) < 0
    ]


def judge(points: Sequence[Mapping[str, Any]], noise: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each aim beside the worst and the median error, up to HEAVY load and above, and the noise.

    `steady` is the median error of predictions that were not told the machine's speed.
    """
    found = []
    for name, (_, *limits) in AIMS.items():
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
