"""The report on a terminal: verdicts and capacities as two tables, and why claims do not hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.claims.verdicts import Doubt, Status, by_reason, records
from bench.report.build import Report
from engines.core.text import printable

COLOURS = {
    Status.PASS: "green",
    Status.FAIL: "red",
    Status.OPEN: "yellow",
    Status.INCOMPLETE: "yellow",
    Status.NOT_RUN: "bright_black",
}
VERDICTS = {
    "figure": "figure",
    "claim": "claim",
    "paper": "paper_text",
    "ours": "ours_text",
    "deviation": "deviation_text",
    "tolerance": "tolerance_text",
    "verdict": "status",
    "basis": "basis",
}
CAPACITIES = ("panel", "system", "capacity", "from", "Astra over it", "paper")


def print_report(report: Report, console: Console) -> None:
    """Print the verdicts, the capacities, and the reasons for what does not hold."""
    shown = report.verdicts[list(VERDICTS.values())].fillna({"basis": ""})
    marked = shown.map(plain).assign(
        status=[f"[{COLOURS[s]}]{s.value}[/]" for s in shown["status"]]
    )
    console.print(_table(list(VERDICTS), marked.to_numpy().tolist(), right=(2, 3, 4, 5)))
    if report.capacities:
        title = "capacity at 1 s/token (req/s)"
        console.print(_table(CAPACITIES, _capacity_rows(report), right=(2, 4), title=title))
    _print_reasons(report, console)
    if report.problems:
        count = len(report.problems)
        points = "1 point is" if count == 1 else f"{count} points are"
        console.print(f"[yellow]{points} missing, corrupt or stale[/]: see the report")
    if not report.summary.num_points:
        console.print("[yellow]no results of this kind yet[/]: 'bench figure NAME' makes them")
    if report.reference is not None:
        console.print(report.reference.text, highlight=False)
    console.print(
        f"[bold]{report.headline}[/] ({report.choice.backend}, "
        f"{report.summary.num_points} points, {report.summary.busy_s:.0f} s of work)"
    )


def plain(text: object) -> str:
    """Text that Rich shows as it is: no markup, and nothing that a terminal would obey."""
    return escape(printable(str(text)))


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int], title: str = ""
) -> Table:
    """A table that names what the first column holds only where it changes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for index, name in enumerate(head):
        number = index in right
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    previous = ""
    for first, *others in rows:
        table.add_row("" if first == previous else first, *others)
        previous = first
    return table


def _capacity_rows(report: Report) -> list[list[str]]:
    return [
        [
            row.panel,
            row.system,
            str(row.capacity or "-"),
            f"{row.seeds} seeds" if row.seeds else f"{row.num_sound}/{row.num_points} points",
            "-" if row.ratio is None else f"{row.ratio}x",
            row.paper or "-",
        ]
        for row in report.capacities
    ]


def _print_reasons(report: Report, console: Console) -> None:
    verdicts = records(report.verdicts)
    for group in by_reason(row for row in verdicts if row["status"] is Status.FAIL):
        for row in group:
            line = f"[red]fails[/]: {row['claim']}: {plain(row['gap_text'])}"
            console.print(line, highlight=False)
        console.print(f"  because {plain(group[0]['why_text'])}", highlight=False)
    for row in verdicts:
        if row["status"] is Status.OPEN and row["doubt"] is not Doubt.SHORT:
            line = f"[yellow]open[/]: {row['claim']}: {plain(row['reason_text'])}"
            console.print(line, highlight=False)
