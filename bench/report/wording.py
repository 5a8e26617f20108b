"""What Markdown and page of the report say alike. `**` and backticks mark words, as in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.claims.intervals import Mean
from bench.claims.verdicts import Status
from bench.experiments import registry
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.report.provenance import Summary

if TYPE_CHECKING:
    from bench.report.build import CurveCapacity, Report

BACKENDS = {
    "sim": "**Simulated.** No model ran and no GPU was used: the schedulers and memory managers "
    "are the real ones, each batch is priced by a formula with the parameters of a device profile.",
    "cpu": "**Measured on CPU.** The model ran on this machine's processor.",
    "cuda": "**Measured on GPU.** The model ran on this machine's GPU.",
}
CAPACITY_METHOD = (
    f"The request rate at which mean normalized latency reaches {LIMIT_S_PER_TOKEN:g} s/token, "
    "read off the straight line between the two rates of the figure around it. ≥ and ≤ mark "
    "bounds: the figure's rates do not reach the limit, or start beyond it. Where "
    "`bench capacity --figure` has searched by bisection, the last column gives the "
    "geometric mean over seeds and its 95 % interval, and the claims rest on it: for each seed "
    "both systems serve the same trace, and the ratio is the mean of the seeds' ratios."
)
CAPACITY_HEAD = (
    "system",
    "capacity (req/s)",
    "Astra over it",
    "points",
    "by bisection (95 % interval)",
)
BASELINES = (
    "**Orca is a proxy.** Orca is closed source; `orca-*` is its iteration-level scheduling with a "
    "buddy allocator, built on the same engine, as in the original artifact.",
    "**FasterTransformer is our policy.** `ft` is request-level batching with a fixed batch size "
    "and padding on the same engine, not NVIDIA's library.",
)


def headline(report: Report) -> str:
    """The result in one line."""
    counts = [
        f"{report.count(Status.PASS)} of {len(report.verdicts)} claims hold",
        f"{report.count(Status.FAIL)} do not",
    ]
    others = (Status.OPEN, Status.INCOMPLETE, Status.NOT_RUN)
    counts += [f"{report.count(s)} {s.value}" for s in others if report.count(s)]
    return ", ".join(counts)


def bases_text(report: Report) -> str:
    """How many claims hold, by how our number came about."""
    parts = []
    for basis in ("predicted", "calibrated", "measured", "computed"):
        mine = [v for v in report.verdicts if v.ours is not None and v.basis == basis]
        if mine:
            held = sum(verdict.status is Status.PASS for verdict in mine)
            parts.append(f"{held} of {len(mine)} {basis} hold")
    return ", ".join(parts) or "nothing has been run"


def figure_title(name: str) -> str:
    """The title over a figure's verdicts; Table 1 has verdicts too."""
    figure = registry.FIGURES.get(name)
    return figure.title if figure else "Memory for the KV cache (Table 1)"


def settings_text(report: Report) -> str:
    """Which of the possible results are shown."""
    traces = report.choice.effort.words
    changed = ", ".join(f"{name} = {value}" for name, value in report.choice.overrides)
    return f"{traces}{f'; changed settings: {changed}' if changed else ''}."


def capacity_cells(row: CurveCapacity) -> list[str]:
    """The cells under CAPACITY_HEAD."""
    ratio = "-" if row.ratio is None else f"{row.ratio}x"
    points = f"{row.num_sound}/{row.num_points}"
    return [row.system, str(row.capacity or "-"), ratio, points, mean_text(row.searched)]


def mean_text(mean: Mean | None) -> str:
    """A mean over seeds in print."""
    if mean is None:
        return "-"
    if mean.interval is None:
        return f"{mean.value:.3g}"
    return f"{mean.value:.3g} ({mean.interval[0]:.3g} to {mean.interval[1]:.3g})"


def provenance_rows(summary: Summary) -> list[tuple[str, str]]:
    """What the results have in common, as label and value; none without results."""
    if not summary.num_points:
        return []
    facts = [(label, "; ".join(values)) for label, values in summary.facts.items()]
    facts += [("inputs", "; ".join(summary.inputs))] if summary.inputs else []
    return [
        *facts,
        ("points", str(summary.num_points)),
        ("time of all points, one after another", f"{summary.busy_s:.1f} s"),
        ("first started, last ended (UTC)", f"{summary.started}, {summary.ended}"),
    ]


def pending_by_reason(report: Report) -> list[tuple[str, list[str]]]:
    """Why figures cannot run, and which."""
    reasons = dict.fromkeys(report.pending.values())
    return [(why, [n for n, other in report.pending.items() if other == why]) for why in reasons]
