"""`bench report`: every number of the paper beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bench.claims.reference import find_reference
from bench.claims.verdicts import Doubt, Status, by_reason, records
from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.output import print_json, print_table, say, say_marked
from bench.commands.selection import choice_of
from bench.files import check_writable
from bench.report.build import Report, build_report
from bench.report.pictures import draw_all
from bench.report.write import to_json, write_report
from bench.results.store import Snapshot

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


@click.command("report")
@options.selection
@options.reference(
    help="Reference results to compare with.  [default: artifacts/reference/BACKEND, if there]"
)
@options.as_json(help="Print report.json instead of a table.")
def command(*, reference: Path | None, as_json: bool, **given: Any) -> None:
    """Hold every number against the paper's, from the results that are there.

    Writes index.html (one page with all figures), report.md and report.json into the report/
    folder of the artifacts; the options must be those the points were run with. A claim that does
    not hold is told, and is no error.
    """
    store = Snapshot(given["artifacts"])
    choice = choice_of(given, resolve_backend(given["backend"]))
    directory = store.root / "report" / choice.folder
    check_writable(directory)
    report = build_report(store, choice, reference=find_reference(reference, choice))
    paths = write_report(report, directory, draw_all(store, choice))
    if as_json:
        print_json(to_json(report), indent=2)
        return
    print_report(report)
    for path in paths:
        say(str(path))


def print_report(report: Report) -> None:
    """Print verdicts and capacities as tables, and why claims do not hold."""
    verdicts = records(report.verdicts)
    rows = [[str(row[key] or "") for key in VERDICTS.values()] for row in verdicts]
    print_table(list(VERDICTS), _blank_repeated(rows), right=(2, 3, 4, 5), narrow=True)
    if report.capacities:
        rows, title = _capacities(report), "capacity at 1 s/token (req/s)"
        print_table(CAPACITIES, _blank_repeated(rows), right=(2, 4), narrow=True, title=title)
    for group in by_reason(row for row in verdicts if row["status"] is Status.FAIL):
        for row in group:
            say_marked("red", "fails", f": {row['claim']}: {row['gap_text']}")
        say_marked("", "", f"  because {group[0]['why_text']}")
    for row in verdicts:
        if row["status"] is Status.OPEN and row["doubt"] is not Doubt.SHORT:
            say_marked("yellow", "open", f": {row['claim']}: {row['reason_text']}")
    if report.problems:
        count = len(report.problems)
        points = "1 point is" if count == 1 else f"{count} points are"
        say_marked("yellow", f"{points} missing, corrupt or stale", ": see the report")
    summary = report.summary
    if not summary.num_points:
        say_marked("yellow", "no results of this kind yet", ": 'bench figure NAME' makes them")
    if report.reference is not None:
        say_marked("", "", report.reference.text)
    work = f"{summary.num_points} points, {summary.busy_s:.0f} s of work"
    say_marked("bold", report.headline, f" ({report.choice.backend}, {work})")


def _blank_repeated(rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """The rows, with what the first column holds only where it changes."""
    previous = ""
    for first, *others in rows:
        yield ("" if first == previous else first, *others)
        previous = first


def _capacities(report: Report) -> list[list[str]]:
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
