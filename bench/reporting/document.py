"""The report in writing: Markdown for people, plain values for machines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.capacity import LIMIT_S_PER_TOKEN, Bound, Estimate
from bench.experiments import registry
from bench.reporting.verdicts import (
    Status,
    Verdict,
    deviation_text,
    ours_text,
    paper_text,
    reason_text,
    tolerance_text,
)

if TYPE_CHECKING:
    from bench.report import CurveCapacity, Report

BACKENDS = {
    "sim": "**Simulated.** No model ran and no GPU was used: the schedulers and memory managers "
    "are the real ones, each batch is priced by a formula with the parameters of a device profile.",
    "cpu": "**Measured on CPU.** The model ran on this machine's processor.",
    "cuda": "**Measured on GPU.** The model ran on this machine's GPU.",
}
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


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    sections = [
        f"# The paper's claims against this artifact\n\n**{headline(report)}.**",
        f"{BACKENDS[report.choice.backend]} {_settings(report)}",
        *_verdict_sections(report),
        *_failures(report),
        *_capacity_sections(report.capacities),
        *_problem_section(report),
        *_method_sections(),
        *_provenance_section(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    return {
        "backend": report.choice.backend,
        "full": report.choice.full,
        "overrides": dict(report.choice.overrides),
        "headline": headline(report),
        "claims": [_verdict_values(verdict) for verdict in report.verdicts],
        "limit_s_per_token": LIMIT_S_PER_TOKEN,
        "capacities": [_capacity_values(row) for row in report.capacities],
        "problems": list(report.problems),
        "pending": dict(report.pending),
        "calibrations": [asdict(item) for item in registry.CALIBRATIONS],
        "provenance": asdict(report.summary),
    }


def _settings(report: Report) -> str:
    traces = "The paper's trace lengths" if report.choice.full else "The original scripts' traces"
    changed = ", ".join(f"{name} = {value}" for name, value in report.choice.overrides)
    return f"{traces}{f'; changed settings: {changed}' if changed else ''}."


def _verdict_sections(report: Report) -> list[str]:
    sections = ["## Verdicts"]
    for name in dict.fromkeys(verdict.figure for verdict in report.verdicts):
        rows = [_verdict_row(v) for v in report.verdicts if v.figure == name]
        figure = registry.FIGURES.get(name)
        title = figure.title if figure else "Memory for the KV cache (Table 1)"
        head = ("claim", "paper", "ours", "deviation", "tolerance", "verdict", "basis", "on")
        sections += [f"### {title}", table(head, rows)]
    return sections


def _verdict_row(verdict: Verdict) -> list[str]:
    devices = ", ".join(verdict.measurement.devices)
    stale = " (stale)" if verdict.measurement.stale else ""
    where = {"sim": "simulated ", "none": ""}.get(verdict.backend, f"{verdict.backend} ")
    return [
        verdict.claim.text,
        paper_text(verdict.claim),
        ours_text(verdict),
        deviation_text(verdict),
        tolerance_text(verdict.claim),
        f"**{verdict.status.value}**{stale}",
        _basis(verdict),
        f"{where}{devices}" if devices else "-",
    ]


def _basis(verdict: Verdict) -> str:
    if verdict.ours is None:
        return "-"
    return (
        f"{verdict.basis}: {verdict.claim.calibrated}"
        if verdict.claim.calibrated
        else verdict.basis
    )


def _failures(report: Report) -> list[str]:
    undecided = [v for v in report.verdicts if v.status is not Status.PASS]
    if not undecided:
        return []
    lines = [f"- **{v.status.value}**: {v.claim.text}: {reason_text(v)}." for v in undecided]
    return ["## Claims that do not hold or are not decided", "\n".join(lines)]


def _capacity_sections(rows: Sequence[CurveCapacity]) -> list[str]:
    if not rows:
        return []
    intro = (
        f"The request rate at which mean normalized latency reaches {LIMIT_S_PER_TOKEN:g} s/token, "
        "read off the straight line between the two measured rates around it. ≥ and ≤ mark bounds: "
        "the curve's rates do not reach the limit, or start beyond it."
    )
    sections = ["## Capacity", intro]
    for panel in dict.fromkeys(row.panel for row in rows):
        mine = [row for row in rows if row.panel == panel]
        head = ("system", "capacity (req/s)", "Astra over it", "points")
        sections += [f"### {mine[0].title}", table(head, [_capacity_row(row) for row in mine])]
    return sections


def _capacity_row(row: CurveCapacity) -> list[str]:
    ratio = "-" if row.ratio is None else f"{row.ratio}x"
    points = f"{row.num_sound} of {row.num_points}"
    return [row.system, str(row.capacity or "-"), ratio, points]


def _problem_section(report: Report) -> list[str]:
    sections = []
    if report.problems:
        lines = "\n".join(f"- {line}" for line in report.problems)
        sections += [
            "## Incomplete, corrupt or stale results",
            "Missing and corrupt points count for nothing above.",
            lines,
        ]
    if report.pending:
        lines = "\n".join(f"- {', '.join(names)}: {why}" for why, names in _by_reason(report))
        sections += ["## Figures without results", lines]
    return sections


def _by_reason(report: Report) -> list[tuple[str, list[str]]]:
    reasons = dict.fromkeys(report.pending.values())
    return [(why, [n for n, other in report.pending.items() if other == why]) for why in reasons]


def _method_sections() -> list[str]:
    calibrated = "\n".join(
        f"- `{item.parameter}` ({item.where}): fitted on {item.fitted_on}."
        for item in registry.CALIBRATIONS
    )
    return [
        "## What is calibrated",
        f"These parameters were fitted on a number of the paper; every other number is a "
        f"prediction.\n\n{calibrated}",
        "## What the baselines are",
        "\n".join(f"- {line}" for line in BASELINES),
    ]


def _provenance_section(report: Report) -> list[str]:
    summary = report.summary
    if not summary.num_points:
        return []
    facts = [[label, "; ".join(values)] for label, values in summary.facts.items()]
    facts += [["inputs", "; ".join(summary.inputs)]] if summary.inputs else []
    facts += [
        ["points", str(summary.num_points)],
        ["time of all points, one after another", f"{summary.busy_s:.1f} s"],
        ["first started, last ended (UTC)", f"{summary.started}, {summary.ended}"],
    ]
    return ["## Provenance", table(("what", "value"), facts)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


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
        "points": row.num_sound,
        "points_registered": row.num_points,
    }


def _estimate_values(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    assert math.isfinite(estimate.value), "an estimate is a finite number"
    names = {Bound.EXACT: "exact", Bound.AT_LEAST: "at least", Bound.AT_MOST: "at most"}
    return {"value": estimate.value, "bound": names[estimate.bound]}
