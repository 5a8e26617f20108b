"""`bench figure`: run what figures are made of, then draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.backend import tell_backend
from bench.commands.options import quiet_option
from bench.commands.places import (
    choose_measurer,
    choose_place,
    note,
    place_options,
    settle,
    tell_runner,
)
from bench.commands.plot import draw_all, figures_folder
from bench.commands.selection import choice_of, selection_options
from bench.commands.tables import print_table
from bench.progress import choose, clock
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.devices.measured import Measurer
    from bench.experiments.model import Figure
    from bench.experiments.tables import Choice
    from bench.point.spec import PointSpec
    from bench.results.store import Store
    from bench.sweep.place import Place
    from bench.sweep.runner import Summary


@dataclass(frozen=True)
class Wanted:
    """The points of the figures named on the command line, each once.

    `measured` are figures that a microbenchmark makes.
    """

    points: tuple[PointSpec, ...]
    measured: tuple[Figure, ...] = ()


@click.command("figure")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@selection_options
@click.option("--force", is_flag=True, help="Run points again that are complete.")
@place_options
@click.option("--no-plot", is_flag=True, help="Run only.")
@click.option("--dry-run", is_flag=True, help="Say which points would run, and write nothing.")
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    names: tuple[str, ...],
    artifacts: str,
    force: bool,
    **options: Any,
) -> None:
    """Run the points of figures in parallel, then draw the figures.

    NAME is a figure, a part or a panel of one, or a group: see `bench figures`. Complete points
    are skipped, so that an interrupted command goes on where it was.
    """
    from bench.files import check_writable
    from bench.results.store import Store

    asked, options = options["backend"], settle(options)
    keeps = not options["dry_run"]
    measurer = choose_measurer(options, Path(artifacts))
    choice = choice_of(options, Path(artifacts), names, measure=measurer.speed, keeps=keeps)
    wanted = find_points(names, choice)
    store = Store(artifacts)
    if options["dry_run"]:
        _print_plan(store, wanted, choice.backend, force=force)
        return
    draws = not options["no_plot"]
    if draws:
        check_writable(figures_folder(store, choice))
    if wanted.points or not wanted.measured:
        tell_runner(options)
        tell_backend(asked, choice.backend)
    place = choose_place(options)
    summary = bring(store, wanted.points, place=place, force=force, quiet=options["quiet"])
    left_out: dict[str, str] = {}
    if not summary.interrupted:
        left_out = measure_all(
            wanted, measurer, backend=choice.backend, force=force, quiet=options["quiet"]
        )
    if draws and not summary.interrupted:
        try:
            draw_all(names, store, choice)
        except UserError as error:
            if not summary.failed:
                raise
            click.echo(f"not drawn: {error}", err=True)
    for name, reason in left_out.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    tell(summary, store)
    ctx.exit(summary.exit_status)


def find_points(names: Sequence[str], choice: Choice) -> Wanted:
    """All points behind `names`.

    Raises UserError for names that are unknown, and for a bad file of lengths.
    """
    from bench.experiments import registry
    from bench.experiments.miniature import require_miniature
    from bench.workloads.lengths import load_lengths

    overrides = dict(choice.overrides)
    points: dict[PointSpec, None] = {}
    measured: dict[str, Figure] = {}
    for name in names:
        selection = registry.find(name)
        measured |= {f.name: f for f in selection.figures if f.is_measured(choice.backend)}
        if "scale" in overrides:
            for panel in selection.panels:
                require_miniature(panel)
        points |= dict.fromkeys(p for panel in selection.panels for p in choice.points(panel))
    if "lengths" in overrides:
        load_lengths(Path(overrides["lengths"]))  # a faulty file fails before anything runs
    return Wanted(tuple(points), tuple(measured.values()))


def measure_all(
    wanted: Wanted, measurer: Measurer, *, backend: str, force: bool, quiet: bool
) -> dict[str, str]:
    """Measure what is not there yet; returns the figures that this machine cannot, and why.

    Raises UserError if nothing else was wanted.
    """
    from bench.devices.measured import is_there, measure_figure

    left_out = {}
    for figure in wanted.measured:
        if is_there(figure, measurer.root, backend=backend) and not force:
            click.echo(f"{figure.name}: measured already (--force measures again)", err=True)
            continue
        try:
            measure_figure(figure, measurer, backend=backend, quiet=quiet, note=note)
        except UserError as error:
            if not wanted.points:
                raise
            left_out[figure.name] = str(error)
    return left_out


def bring(
    store: Store, points: Sequence[PointSpec], *, place: Place, force: bool, quiet: bool
) -> Summary:
    """Run the points with a display that fits; raises UserError if nothing can be written."""
    from bench.sweep.runner import run_points

    return run_points(store, points, place=place, force=force, display=choose(quiet=quiet))


def tell(summary: Summary, store: Store) -> None:
    """Say on standard error what became of the points; failed ones last, by name."""
    counts = {
        "run": len(summary.done),
        "already complete": len(summary.skipped),
        "kept though stale": len(summary.kept),
        "failed": len(summary.failed),
        "not run": len(summary.unfinished),
    }
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    stopped = "interrupted: " if summary.interrupted else ""
    click.echo(f"{stopped}points: {told or 'none'} in {clock(summary.elapsed_s)}", err=True)
    if summary.interrupted:
        click.echo("the same command again goes on from here", err=True)
    for failure in summary.failed:
        click.echo(f"failed: {store.directory(failure.spec).name}: {failure.error}", err=True)


def _print_plan(store: Store, wanted: Wanted, backend: str, *, force: bool) -> None:
    from bench.devices.measured import is_there
    from bench.sweep.plan import make_plan

    points = wanted.points
    will_run = set(make_plan(store, points, force=force).run)
    rows = []
    for spec in points:
        check = store.check(spec)
        state = f"{check.state.value}: {check.reason}" if check.reason else check.state.value
        rows.append((store.directory(spec).name, state, "yes" if spec in will_run else "no"))
    print_table(("point", "state", "would run"), rows)
    click.echo(f"{len(will_run)} of {len(points)} points would run")
    for figure in wanted.measured:
        there = is_there(figure, store.root, backend=backend) and not force
        click.echo(f"{figure.name} {'is' if there else 'would be'} measured on a device")
