"""What `bench reference` prints, and the page that it writes beside the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.commands.tables import print_table

if TYPE_CHECKING:
    from bench.claims.comparison import ClaimComparison, PanelComparison
    from bench.claims.verdicts import Verdict
    from bench.experiments.tables import Choice
    from bench.report.build import Report

README = """\
# Reference results, simulated

A run of every figure with `bench reference --renew{options}`: {traces}.

`points.csv` has one row for each point with its main metrics, `claims.csv` one for each claim,
`capacities.csv` one for each curve, `figures/` small pictures. `bench reference{options}` holds
your results against these; equal sources give equal metrics.

## Where it comes from

| what | value |
|---|---|
{facts}

## What to expect

{headline}. Ratios of sustained rates are read off the figures' curves, seed 0; with `make capacity`
the report has those by bisection over three seeds, which are in `claims.csv` too.

| figure | claim | paper | here | tolerance | verdict | basis |
|---|---|---|---|---|---|---|
{claims}
"""


def print_claims(rows: Sequence[ClaimComparison]) -> None:
    """Print every claim with the paper's number, the reference's and the one here."""

    def number(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{value:.4g}{'x' if unit == 'x' else ''}"

    cells = [
        (
            row.figure,
            row.claim,
            row.paper,
            number(row.reference, row.unit),
            number(row.ours, row.unit),
            "-" if row.difference is None else f"{100 * row.difference:+.1f} %",
            row.verdicts[1] if len(set(row.verdicts)) == 1 else " -> ".join(row.verdicts),
        )
        for row in rows
    ]
    head = ("figure", "claim", "paper", "reference", "here", "difference", "verdict")
    print_table(head, cells, title="claims")


def print_points(panels: Sequence[PanelComparison], *, tolerance: float) -> None:
    """Print how the points of every panel compare."""
    cells = [
        (
            row.panel,
            f"{row.num_compared}/{row.num_reference}",
            str(row.num_equal),
            str(row.num_close),
            str(row.num_other),
            row.worst or "-",
        )
        for row in panels
    ]
    within = f"within {100 * tolerance:g} %"
    head = ("panel", "run", "equal", within, "beyond", "largest relative difference")
    print_table(head, cells, title="points")


def readme(report: Report, choice: Choice) -> bytes:
    """The reference's README: provenance, and every claim with what to expect."""
    from bench.report.wording import headline

    facts = report.summary.facts
    rows = [f"| points | {report.summary.num_points} |"]
    rows += [f"| {label} | {'; '.join(values)} |" for label, values in facts.items()]
    text = README.format(
        options="".join(f" {option}" for option in choice.effort.options),
        traces=f"{choice.effort.words[0].lower()}{choice.effort.words[1:]}",
        facts="\n".join(rows),
        headline=headline(report),
        claims="\n".join(_claim_row(verdict) for verdict in report.verdicts),
    )
    return text.encode()


def _claim_row(verdict: Verdict) -> str:
    from bench.claims.verdicts import (
        basis_text,
        figure_label,
        ours_text,
        paper_text,
        tolerance_text,
    )

    cells = (
        figure_label(verdict.figure),
        verdict.claim.text,
        paper_text(verdict.claim),
        ours_text(verdict),
        tolerance_text(verdict.claim),
        verdict.status.value,
        basis_text(verdict, detail=False),
    )
    return f"| {' | '.join(cells)} |"
