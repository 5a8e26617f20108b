"""`bench reference`: hold results against the reference, or make the reference anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import artifacts_option, quiet_option
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.experiments.tables import Choice
    from bench.results import Store

PICTURE_WIDTH = 1000  # pixels, so that all pictures together stay well below a megabyte
README = """\
# Reference results, simulated

A full run of every figure and capacity search with `bench reference --renew`, at the original
scripts' trace lengths. `points.csv` has one row for each point with its main metrics,
`claims.csv` one for each claim, `capacities.csv` one for each curve; `figures/` holds small
pictures. `bench reference` compares your results with these; equal sources give equal metrics.

| what | value |
|---|---|
"""


@click.command("reference")
@artifacts_option
@click.option(
    "--reference",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where the reference lies.  [default: artifacts/reference/sim]",
)
@click.option("--renew", is_flag=True, help="Run everything, then write the reference anew.")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), metavar="N", help="With --renew: points at a time."
)
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    artifacts: str,
    reference: str | None,
    renew: bool,
    jobs: int | None,
    quiet: bool,
) -> None:
    """Hold the simulated results against the reference, point by point.

    Equal sources give equal metrics; with other sources the largest difference of each point is
    told. Exit status 1 if any point differs. With --renew, all figures and capacity searches run
    (those that are complete are skipped), and the reference is written anew.
    """
    from bench.experiments.tables import Choice
    from bench.reference import USUAL
    from bench.results import Store

    store, choice = Store(artifacts), Choice()
    directory = Path(reference) if reference else USUAL / choice.backend
    if renew:
        _run_all(ctx, artifacts=artifacts, jobs=jobs, quiet=quiet)
        _renew(store, choice, directory)
    else:
        ctx.exit(_compare(store, choice, directory))


def _compare(store: Store, choice: Choice, directory: Path) -> int:
    from bench.reference import compare, comparison_text, shown_lines

    found = compare(store, directory, choice)
    if not found.num_compared:
        raise UserError(f"{comparison_text(found)}: 'bench figure all' runs them")
    for line in shown_lines(found.lines):
        click.echo(line)
    click.echo(comparison_text(found))
    return 1 if found.lines else 0


def _run_all(ctx: click.Context, *, artifacts: str, jobs: int | None, quiet: bool) -> None:
    """Run all figures and the capacity searches behind all claims, as their commands do."""
    from bench.commands.capacity import command as capacity
    from bench.commands.figure import command as figure

    common = ["--artifacts", artifacts, *(["--jobs", str(jobs)] if jobs else [])]
    common += ["--quiet"] if quiet else []
    for run, words in ((figure, ["all", "--no-plot"]), (capacity, ["--figure", "all"])):
        status = run.main([*words, *common], standalone_mode=False)
        if isinstance(status, int) and status:
            ctx.exit(status)


def _renew(store: Store, choice: Choice, directory: Path) -> None:
    from bench.experiments import registry
    from bench.files import write_file
    from bench.reference import reference_files
    from bench.report import build_report
    from bench.reporting.pictures import draw_all, shrink

    report = build_report(store, choice)
    if not report.summary.num_points:
        raise UserError(f"there are no results in {store.root} to make a reference of")
    drawings = draw_all(store, choice)
    pictures = {
        name: shrink(drawing.png, width=PICTURE_WIDTH)
        for name, drawing in drawings.items()
        if drawing.png and not registry.FIGURES[name].is_measured("sim")
    }
    files = reference_files(store, report, pictures)
    files["README.md"] = _readme(report.summary.facts, report.summary.num_points)
    for name, content in files.items():
        write_file(directory / name, content)
    size_kib = sum(map(len, files.values())) / 1024
    click.echo(f"{len(files)} files, {size_kib:.0f} KiB: {directory}")


def _readme(facts: Mapping[str, Sequence[str]], num_points: int) -> bytes:
    rows = [f"| {label} | {'; '.join(values)} |" for label, values in facts.items()]
    return (README + "\n".join([f"| points | {num_points} |", *rows]) + "\n").encode()
