"""`bench capacity`: the request rate that a system sustains, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.claims.capacity_search import DEFAULT_TOLERANCE, Search, Target
from bench.commands.backend import check_profile, tell_backend
from bench.commands.capacity_output import print_figures, print_one
from bench.commands.options import artifacts_option, quiet_option
from bench.commands.places import (
    PLACE_OPTIONS,
    choose_place,
    place_options,
    settle,
    tell_runner,
)
from bench.commands.point_options import point_options
from bench.commands.selection import effort_options, selection_overrides
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.point.spec import PointSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.claims.capacity_run import Sought
    from bench.claims.searched import Pair
    from bench.results.store import Store

DEFAULT_SEEDS = 3
SEARCH_OPTIONS = (
    *("figures", "limit", "tolerance", "seeds", "as_json", "quiet", "artifacts"),
    *PLACE_OPTIONS,
)
FIGURE_OPTIONS = ("quick", "full", "seed", "lengths", "backend")


def _search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--figure",
            "figures",
            multiple=True,
            metavar="NAME",
            help="Search all curves behind the ratio claims of a figure instead (repeatable).",
        ),
        effort_options,
        click.option(
            "--limit",
            type=float,
            default=LIMIT_S_PER_TOKEN,
            show_default=True,
            help="Mean normalized latency that is still sustained, in s/token.",
        ),
        click.option(
            "--tolerance",
            type=float,
            default=DEFAULT_TOLERANCE,
            show_default=True,
            help="How closely the rate is enclosed, as a fraction of it.",
        ),
        click.option(
            "--seeds",
            type=click.IntRange(1, 64),
            default=DEFAULT_SEEDS,
            show_default=True,
            help="Searches, each with a seed of its own, from --seed on.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("capacity")
@_search_options
@place_options
@point_options
@artifacts_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Find the highest request rate that a system sustains: mean normalized latency below --limit.

    The options are those of `bench run`; --rate says where the search starts (with --figure: among
    the figure's own rates). Every point that is
    tried is kept among the results, so that an interrupted search goes on where it was, and
    `bench report` uses finished ones for the claims about sustained rates (those of --figure).
    """
    from bench.point.serve import check_simulated
    from bench.results.store import Store

    target = Target(given["limit"], given["tolerance"])
    store = Store(given["artifacts"])
    if given["figures"]:
        _refuse_settings(ctx)
        chosen = ctx.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT
        given = settle(given if chosen else {**given, "backend": "sim"})
        ctx.exit(_search_figures(ctx, store, target=target, given=given))
    if given["system"] is None:
        raise UserError("say what to search: --system NAME, or --figure NAME for a figure's claims")
    for name in ("quick", "full"):
        if given[name]:
            raise UserError(
                f"--{name} goes with --figure: give the length of the trace as --duration"
            )
    asked, given = given["backend"], settle(given)
    spec = _spec(given)
    check_profile(spec)
    if spec.backend == "sim":
        check_simulated(spec)
    sought = _run(store, [Search.at(spec)], target=target, given=given)
    tell_backend(asked, spec.backend)
    if spec in sought.found:
        print_one(sought.found[spec], target=target, as_json=given["as_json"])
    ctx.exit(_tell(sought, store))


for _option in command.params:
    if _option.name == "system":
        _option.required = False  # --figure does without


def _refuse_settings(ctx: click.Context) -> None:
    """A figure's settings are the registry's."""
    default = click.core.ParameterSource.DEFAULT
    allowed = (*SEARCH_OPTIONS, *FIGURE_OPTIONS)
    for option in ctx.command.params:
        name = option.name or ""
        if name not in allowed and ctx.get_parameter_source(name) is not default:
            raise UserError(f"--figure takes its settings from the registry: omit {option.opts[0]}")


def _spec(given: Mapping[str, Any]) -> PointSpec:
    for name, why in (
        ("trace", "a trace has a rate of its own"),
        ("timeout", "requests that are cut off would not count"),
    ):
        if given[name] is not None:
            raise UserError(f"a search varies the rate until requests queue: omit --{name} ({why})")
    others = (*SEARCH_OPTIONS, "quick", "full", "runner_reason")
    settings = {k: v for k, v in given.items() if k not in others}
    return PointSpec(**settings)


def _run(
    store: Store, searches: Sequence[Search], *, target: Target, given: Mapping[str, Any]
) -> Sought:
    from bench.claims.capacity_run import run_searches
    from bench.progress import choose

    tell_runner(given)
    return run_searches(
        store,
        searches,
        target=target,
        seeds=given["seeds"],
        place=choose_place(given),
        display=choose(quiet=given["quiet"]),
    )


def _tell(sought: Sought, store: Store) -> int:
    """Say what ended the searches early, if anything did; returns the exit status."""
    from bench.commands.figure import tell

    ended = sought.failed
    if ended is None:
        return 0
    tell(ended, store)
    return ended.exit_status


def _search_figures(
    ctx: click.Context, store: Store, *, target: Target, given: Mapping[str, Any]
) -> int:
    from bench.claims.searched import Ratio, search_of
    from bench.experiments.effort import Effort
    from bench.experiments.tables import Choice

    pairs = _pairs(given["figures"])
    seed_given = ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT
    choice = Choice.of(
        backend=given["backend"],
        effort=Effort.of(quick=given["quick"], full=given["full"]),
        overrides=selection_overrides(
            lengths=given["lengths"], seed=given["seed"] if seed_given else None
        ),
    )
    searches = {
        (pair.panel, system): search_of(pair.panel, system, choice)
        for pair in pairs
        for system in (pair.over, pair.under)
    }
    if any(one.spec.timeout is not None for one in searches.values()):
        raise UserError(
            f"figures on backend '{choice.backend}' cut requests off, so that no rate is sustained "
            "or not: give a system with --system instead of --figure"
        )
    sought = _run(store, list(dict.fromkeys(searches.values())), target=target, given=given)
    if sought.found:
        found = {key: sought.found[one.spec] for key, one in searches.items()}
        ratios = [
            Ratio(pair, found[pair.panel, pair.over], found[pair.panel, pair.under])
            for pair in pairs
        ]
        print_figures(found, ratios, target=target, as_json=given["as_json"])
    return _tell(sought, store)


def _pairs(names: Iterable[str]) -> list[Pair]:
    from bench.claims.searched import pairs_in
    from bench.experiments import registry

    found: dict[Pair, None] = {}
    for name in names:
        pairs = pairs_in(registry.find(name))
        if not pairs:
            raise UserError(
                f"no claim of '{name}' compares sustained rates: try fig12, or give --system"
            )
        found |= dict.fromkeys(pairs)
    return list(found)
