"""`bench figure`: run what figures are made of, then draw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.claims.deciding import decide
from bench.claims.evidence import ratio_claims
from bench.commands import options
from bench.commands.output import note, print_table, say, tell_summary
from bench.commands.places import settle
from bench.commands.plot import draw_all, figures_folder
from bench.commands.selection import choice_of
from bench.devices.measured import Measurer, measure_figure
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.miniature import require_miniature
from bench.experiments.model import Claim, Figure
from bench.experiments.tables import Choice
from bench.files import check_writable
from bench.point.spec import PointSpec
from bench.progress import choose
from bench.results.store import Snapshot, Store
from bench.sweep.plan import make_plan
from bench.sweep.runner import run_points, total
from bench.workloads.lengths import read_lengths
from bench.workloads.tables import read_input
from engines.core.errors import UserError


@click.command("figure")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@options.selection
@options.force
@options.place
@options.flag("--no-plot", help="Run only.")
@options.flag("--dry-run", help="Say which points would run, and write nothing.")
@options.quiet
@click.pass_context
def command(
    ctx: click.Context, /, *, names: tuple[str, ...], force: bool, quiet: bool, **given: Any
) -> None:
    """Run the points of figures in parallel, then draw the figures.

    NAME is a figure, a part or a panel of one, or a group: see `bench figures`. Complete points
    are skipped, so that an interrupted command goes on where it was. In simulation (not with
    --quick) the sustained rates behind the figures' claims are searched too, by bisection over
    three seeds, or up to ten where they leave a claim open.
    """
    where, store = settle(**given), Store(given["artifacts"])
    measurer = where.measurer(store.root)
    choice = choice_of(given, where.backend, names, measure=measurer.speed)
    points, figures = _find(names, choice)
    claims = _searched_claims(names, choice)
    if given["dry_run"]:
        _print_plan(store, choice, points, figures, force=force)
        if claims:
            say(f"then bisections for {len(claims)} claims about sustained rates")
        return
    draws = not given["no_plot"]
    if draws:
        check_writable(figures_folder(store, choice))
    if points or not figures:
        where.tell(given["backend"])
    display = choose(quiet=quiet)
    place, since = where.place(), datetime.now(UTC) if force else False
    summary = run_points(store, points, place=place, force=since, display=display)
    left_out: dict[str, str] = {}
    if not summary.interrupted:
        wanted = figures if force else _not_measured(store, choice, figures)
        left_out = _measure(wanted, measurer, choice, quiet=quiet, alone=not points)
    refused: UserError | None = None
    if claims and not summary.exit_status:
        try:
            done = decide(store, claims, choice, place=place, force=since, display=display)
            summary = total([summary, *done.rounds])
        except UserError as error:  # no rate crosses the limit: what there is can be drawn
            refused = error
    if draws and not summary.interrupted:
        try:
            draw_all(names, Snapshot(store.root), choice)
        except UserError as error:
            if not summary.failed:
                raise
            note(f"not drawn: {error}")
    for name, reason in left_out.items():
        note(f"left out: {name}: {reason}")
    tell_summary(summary, store)
    if refused is not None:
        raise refused
    ctx.exit(summary.exit_status)


def _find(names: Sequence[str], choice: Choice) -> tuple[list[PointSpec], list[Figure]]:
    """The points behind `names`, each once, and the figures that a microbenchmark makes.

    Raises UserError for names that are unknown, and for a bad file of lengths.
    """
    overrides = dict(choice.overrides)
    selections = [registry.find(name) for name in names]
    panels = [panel for selection in selections for panel in selection.panels]
    if "scale" in overrides:
        for panel in panels:
            require_miniature(panel)
    points = dict.fromkeys(point for panel in panels for point in choice.points(panel))
    if "lengths" in overrides:
        # A faulty file fails before anything runs.
        read_lengths(read_input(Path(overrides["lengths"])))
    figures = {figure.name: figure for selection in selections for figure in selection.figures}
    return list(points), [f for f in figures.values() if f.is_measured(choice.backend)]


def _searched_claims(names: Sequence[str], choice: Choice) -> list[Claim]:
    """The claims whose capacities are searched: where that costs minutes and tells something."""
    if choice.backend != "sim" or choice.effort is Effort.QUICK:
        return []
    return ratio_claims([registry.find(name) for name in names])


def _not_measured(store: Store, choice: Choice, figures: Iterable[Figure]) -> list[Figure]:
    """The figures that are not measured yet; says which are."""
    left = []
    for figure in figures:
        if store.kernels(figure.microbenchmark, backend=choice.backend) is None:
            left.append(figure)
        else:
            note(f"{figure.name}: measured already (--force measures again)")
    return left


def _measure(
    figures: Iterable[Figure], measurer: Measurer, choice: Choice, *, quiet: bool, alone: bool
) -> dict[str, str]:
    """Measure the figures; returns those that this machine cannot, and why.

    Raises UserError instead if they are `alone`, since nothing else was asked for.
    """
    left_out = {}
    for figure in figures:
        try:
            measure_figure(figure, measurer, backend=choice.backend, quiet=quiet, note=note)
        except UserError as error:
            if alone:
                raise
            left_out[figure.name] = str(error)
    return left_out


def _print_plan(
    store: Store,
    choice: Choice,
    points: Sequence[PointSpec],
    figures: Iterable[Figure],
    *,
    force: bool,
) -> None:
    will_run = set(make_plan(store, points, force=force).run)
    rows = []
    for spec in points:
        check = store.check(spec)
        state = f"{check.state.value}: {check.reason}" if check.reason else check.state.value
        rows.append((store.directory(spec).name, state, "yes" if spec in will_run else "no"))
    print_table(("point", "state", "would run"), rows)
    say(f"{len(will_run)} of {len(points)} points would run")
    for figure in figures:
        found = store.kernels(figure.microbenchmark, backend=choice.backend)
        there = found is not None and not force
        say(f"{figure.name} {'is' if there else 'would be'} measured on a device")
