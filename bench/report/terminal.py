"""The report on a terminal: verdicts and capacities as two tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from bench.claims.comparison import comparison_text
from bench.claims.verdicts import (
    Status,
    by_reason,
    deviation_text,
    gap_text,
    ours_text,
    paper_text,
    reason_text,
    tolerance_text,
    why_text,
)
from bench.report.wording import bases_text, headline

if TYPE_CHECKING:
    from rich.console import Console

    from bench.report.build import Report

COLOURS = {
    Status.PASS: "green",
    Status.FAIL: "red",
    Status.OPEN: "yellow",
    Status.INCOMPLETE: "yellow",
    Status.NOT_RUN: "bright_black",
}


def print_report(report: Report, console: Console) -> None:
    """Print the verdicts, the capacities, and the reasons for what does not hold."""
    console.print(_verdicts(report))
    if report.capacities:
        console.print(_capacities(report))
    for group in by_reason(report.failed):
        for verdict in group:
            line = f"[red]fails[/]: {verdict.claim.text}: {escape(gap_text(verdict))}"
            console.print(line, highlight=False)
        console.print(f"  because {escape(why_text(group[0].claim))}", highlight=False)
    for verdict in report.verdicts:
        if verdict.status is Status.OPEN and not verdict.too_short:
            line = f"[yellow]open[/]: {verdict.claim.text}: {escape(reason_text(verdict))}"
            console.print(line, highlight=False)
    if report.problems:
        count = len(report.problems)
        points = "1 point is" if count == 1 else f"{count} points are"
        console.print(f"[yellow]{points} missing, corrupt or stale[/]: see the report")
    if not report.summary.num_points:
        console.print("[yellow]no results of this kind yet[/]: 'bench figure NAME' makes them")
    if report.reference is not None:
        console.print(comparison_text(report.reference), highlight=False)
    console.print(f"by basis: {bases_text(report)}", highlight=False)
    console.print(
        f"[bold]{headline(report)}[/] ({report.choice.backend}, "
        f"{report.summary.num_points} points, {report.summary.busy_s:.0f} s of work)"
    )


def _verdicts(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("figure")
    table.add_column("claim")
    for name in ("paper", "ours", "deviation", "tolerance"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("basis")
    previous = ""
    for verdict in report.verdicts:
        colour = COLOURS[verdict.status]
        table.add_row(
            verdict.figure if verdict.figure != previous else "",
            verdict.claim.text,
            paper_text(verdict.claim),
            ours_text(verdict),
            deviation_text(verdict),
            tolerance_text(verdict.claim),
            f"[{colour}]{verdict.status.value}[/]",
            "" if verdict.ours is None else verdict.basis,
        )
        previous = verdict.figure
    return table


def _capacities(report: Report) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="capacity at 1 s/token (req/s)",
        title_justify="left",
    )
    table.add_column("panel")
    table.add_column("system")
    table.add_column("capacity", justify="right")
    table.add_column("Astra over it", justify="right")
    table.add_column("points", justify="right")
    previous = ""
    for row in report.capacities:
        table.add_row(
            row.panel if row.panel != previous else "",
            row.system,
            str(row.capacity or "-"),
            "-" if row.ratio is None else f"{row.ratio}x",
            f"{row.num_sound}/{row.num_points}",
        )
        previous = row.panel
    return table
