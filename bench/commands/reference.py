"""`bench reference`: compare results with the reference, or make the reference anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd

from bench.claims.comparison import Comparison, compare, compare_claims
from bench.claims.evidence import Evidence
from bench.claims.reference import FIGURES, reference_files, reference_verdicts, usual_directory
from bench.claims.verdicts import records
from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.figure import command as figure
from bench.commands.output import print_table, say
from bench.commands.selection import choice_of
from bench.commands.types import Decimal
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice
from bench.files import write_file
from bench.report.build import build_report
from bench.report.pictures import draw_all, shrink
from bench.results.store import Snapshot, Store
from engines.core.errors import UserError

PICTURE_WIDTH = 1000  # pixels, so that all pictures together stay well below a megabyte


@click.command("reference")
@options.artifacts
@options.effort
@click.option(
    "--backend",
    default="sim",
    metavar="sim|cpu|cuda",
    help="Whose results to compare with the reference. The reference itself is simulated.",
)
@options.reference(help="Where the reference lies.  [default: artifacts/reference/sim]")
@click.option(
    "--tolerance",
    type=Decimal(min=0),
    default=0.01,
    help="Relative difference of a metric that is still no difference.",
)
@options.flag("--renew", help="Run everything, then write the reference anew.")
@options.jobs(help="With --renew: points at a time.")
@options.ray_points
@options.quiet
@click.pass_context
def command(ctx: click.Context, /, *, reference: Path | None, renew: bool, **given: Any) -> None:
    """Compare results with the reference: claim by claim, then point by point.

    Equal sources give equal metrics; exit status 1 if any point differs by more than the
    tolerance. Measured results have no points in common with the reference: their claims are
    compared. With --renew, all figures run in simulation (those that are
    complete are skipped), and the reference is written anew.
    """
    if not renew:
        for name in ("jobs", "ray"):
            if given[name] is not None:
                raise UserError(f"--{name} says how to run points: it goes with --renew")
    choice = choice_of(given, resolve_backend(given["backend"]), names=())
    store = Snapshot(given["artifacts"])
    directory = reference or usual_directory(choice)
    if not renew:
        ctx.exit(_compare(store, directory, choice, tolerance=given["tolerance"]))
    if choice.backend != "sim":
        raise UserError("the reference is simulated: omit --backend")
    _run_all(ctx, choice, given)
    _renew(Snapshot(store.root), choice, directory)


def _compare(store: Store, directory: Path, choice: Choice, *, tolerance: float) -> int:
    found = compare(store, directory, choice, tolerance=tolerance)
    report = build_report(store, choice)
    if not report.summary.num_points:
        command = choice.command("all")
        raise UserError(f"no results to compare in {store.root}: '{command}' makes them")
    _print_claims(compare_claims(report.verdicts, directory))
    if choice.backend != "sim":
        say(f"{choice.backend} results share no points with the simulated reference")
        return 0
    _print_points(found)
    for line in (*found.shown_lines, found.text):
        say(line)
    return 1 if found.lines else 0


def _print_claims(claims: pd.DataFrame) -> None:
    """Print every claim with the paper's number, the reference's and the one here."""

    def number(value: float, unit: str) -> str:
        return "-" if math.isnan(value) else f"{value:.4g}{'x' if unit == 'x' else ''}"

    cells = [
        (
            row["figure"],
            row["claim"],
            row["paper"],
            number(row["reference"], row["unit"]),
            number(row["ours"], row["unit"]),
            "-" if math.isnan(row["difference"]) else f"{100 * row['difference']:+.1f} %",
            " -> ".join(dict.fromkeys((row["verdict_there"], row["verdict"]))),
        )
        for row in records(claims)
    ]
    head = ("figure", "claim", "paper", "reference", "here", "difference", "verdict")
    print_table(head, cells, title="claims")


def _print_points(found: Comparison) -> None:
    """Print how the points of every panel compare."""
    within = f"within {100 * found.tolerance:g} %"
    head = ("panel", "run", "equal", within, "beyond", "largest relative difference")
    cells = [
        (
            row["panel"],
            f"{row['compared']}/{row['reference']}",
            *(str(row[count]) for count in ("equal", "close", "other")),
            row["worst"] or "-",
        )
        for row in records(found.panels)
    ]
    print_table(head, cells, title="points")


def _run_all(ctx: click.Context, choice: Choice, given: Mapping[str, Any]) -> None:
    """Run all figures, as their command does."""
    words = ["--artifacts", str(given["artifacts"]), "--backend", "sim", *choice.options]
    for name in ("jobs", "ray"):
        words += [f"--{name}", str(given[name])] if given[name] is not None else []
    words += ["--quiet"] if given["quiet"] else []
    status = figure.main(["all", "--no-plot", *words], standalone_mode=False)
    if isinstance(status, int) and status:
        ctx.exit(status)


def _renew(store: Store, choice: Choice, directory: Path) -> None:
    """Write tables, pictures and README; pictures that are no longer drawn are removed."""
    from bench.report.render import to_reference_readme

    verdicts = reference_verdicts(Evidence(store, choice))
    report = replace(build_report(store, choice), verdicts=verdicts)
    files = reference_files(store, choice) | {"README.md": to_reference_readme(report).encode()}
    drawings = {} if choice.effort is Effort.QUICK else draw_all(store, choice)
    for name, drawing in drawings.items():
        if drawing.png and not registry.FIGURES[name].is_measured("sim"):
            files[f"{FIGURES}/{name}.png"] = shrink(drawing.png, width=PICTURE_WIDTH)
    for name, content in files.items():
        write_file(directory / name, content)
    for path in (directory / FIGURES).glob("*.png"):
        if f"{FIGURES}/{path.name}" not in files:
            path.unlink()
    size_kib = sum(map(len, files.values())) / 1024
    say(f"{len(files)} files, {size_kib:.0f} KiB: {directory}")
