"""`bench report`: every number of the paper beside ours."""

from __future__ import annotations

import sys
from typing import Any

import click

from bench.commands.options import resolve_backend, selection_options, selection_overrides


@click.command("report")
@selection_options
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of a table.")
def command(*, artifacts: str, as_json: bool, **choice: Any) -> None:
    """Hold every number against the paper's, from the results that are there.

    Writes report.md and report.json into the report/ folder of the artifacts; the options must be
    those the points were run with. A claim that does not hold is told, and is no error.
    """
    from bench.commands.tables import table_console
    from bench.files import check_writable
    from bench.report import write_report
    from bench.results import Store

    backend = resolve_backend(choice["backend"])
    store = Store(artifacts)
    directory = store.root / "report"
    check_writable(directory)
    report = write_report(
        store,
        directory,
        backend=backend,
        full=choice["full"],
        overrides=selection_overrides(**choice),
        console=None if as_json else table_console(),
    )
    for path in report.files:
        if as_json and path.suffix == ".json":
            sys.stdout.write(path.read_text(encoding="utf-8"))
        elif not as_json:
            click.echo(str(path))
