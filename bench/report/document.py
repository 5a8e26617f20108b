"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.claims.comparison import comparison_text, shown_lines
from bench.claims.verdicts import (
    Verdict,
    basis_text,
    by_reason,
    deviation_text,
    gap_text,
    interval_text,
    ours_text,
    paper_text,
    reason_text,
    source_text,
    tolerance_text,
    why_text,
)
from bench.experiments import registry
from bench.report.wording import (
    BACKENDS,
    BASELINES,
    CAPACITY_HEAD,
    CAPACITY_METHOD,
    bases_text,
    capacity_cells,
    figure_title,
    headline,
    pending_by_reason,
    provenance_rows,
    settings_text,
)
from bench.workloads import assumptions

if TYPE_CHECKING:
    from bench.report.build import CurveCapacity, Report


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    sections = [
        f"# The paper's claims against this artifact\n\n**{headline(report)}.**",
        f"By how our numbers came about: {bases_text(report)}.",
        f"{BACKENDS[report.choice.backend]} {settings_text(report)}",
        *_verdict_sections(report),
        *_failures(report),
        *_capacity_sections(report.capacities),
        *_problem_section(report),
        *_method_sections(),
        *_reference_section(report),
        *_provenance_section(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict_sections(report: Report) -> list[str]:
    sections = ["## Verdicts"]
    for name in dict.fromkeys(verdict.figure for verdict in report.verdicts):
        rows = [_verdict_row(v) for v in report.verdicts if v.figure == name]
        head = ("claim", "paper", "ours", "deviation", "tolerance", "verdict", "basis", "on")
        sections += [f"### {figure_title(name)}", table(head, rows)]
    return sections


def _verdict_row(verdict: Verdict) -> list[str]:
    stale = " (stale)" if verdict.measurement.stale else ""
    interval = interval_text(verdict)
    return [
        verdict.claim.text,
        paper_text(verdict.claim),
        ours_text(verdict) + (f" (95 % interval {interval})" if interval else ""),
        deviation_text(verdict),
        tolerance_text(verdict.claim),
        f"**{verdict.status.value}**{stale}",
        basis_text(verdict),
        source_text(verdict),
    ]


def _failures(report: Report) -> list[str]:
    lines = [line for group in by_reason(report.verdicts) for line in _reason(group)]
    return ["## Claims that do not hold or are not decided", "\n".join(lines)] if lines else []


def _reason(group: Sequence[Verdict]) -> Iterable[str]:
    first = group[0]
    mark = f"- **{first.status.value}**: "
    if len(group) == 1:
        yield f"{mark}{first.claim.text}: {reason_text(first)}."
        return
    yield f"{mark}{len(group)} claims of {figure_title(first.figure)}: {why_text(first.claim)}."
    yield from (f"  - {verdict.claim.text}: {gap_text(verdict)}." for verdict in group)


def _capacity_sections(rows: Sequence[CurveCapacity]) -> list[str]:
    if not rows:
        return []
    sections = ["## Capacity", CAPACITY_METHOD]
    for panel in dict.fromkeys(row.panel for row in rows):
        mine = [row for row in rows if row.panel == panel]
        cells = [capacity_cells(row) for row in mine]
        sections += [f"### {mine[0].title}", table(CAPACITY_HEAD, cells)]
    return sections


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
        lines = "\n".join(
            f"- {', '.join(names)}: {why}" for why, names in pending_by_reason(report)
        )
        sections += ["## Figures without results", lines]
    return sections


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
        "## What the workloads assume",
        table(
            ("workload", "number", "value", "source"),
            [(a.workload, a.name, f"{a.value:g}", a.source) for a in assumptions()],
        ),
    ]


def _reference_section(report: Report) -> list[str]:
    if report.reference is None:
        return []
    lines = [f"- {line}" for line in shown_lines(report.reference.lines)]
    text = f"{comparison_text(report.reference)}."
    return ["## Against the reference results", text, "\n".join(lines)]


def _provenance_section(report: Report) -> list[str]:
    rows = provenance_rows(report.summary)
    return ["## Provenance", table(("what", "value"), rows)] if rows else []


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
