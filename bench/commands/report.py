"""`bench report`: every number of the paper beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.claims.reference import find_reference
from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.output import print_json, say, table_console
from bench.commands.selection import choice_of
from bench.commands.types import DIRECTORY
from bench.files import check_writable
from bench.report.build import build_report
from bench.report.pictures import draw_all
from bench.report.terminal import print_report
from bench.report.write import to_json, write_report
from bench.results.store import Snapshot


@click.command("report")
@options.selection
@click.option(
    "--reference",
    type=DIRECTORY,
    help="Reference results to compare with.  [default: artifacts/reference/BACKEND, if there]",
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
    print_report(report, table_console())
    for path in paths:
        say(str(path))
