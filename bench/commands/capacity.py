"""`bench capacity`: the request rate that a system sustains, found by bisection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.claims.bisection import DEFAULT_TOLERANCE, Search, Target
from bench.commands.backend import check_profile, tell_backend
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
from bench.commands.tables import print_table
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.point.spec import PointSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.claims.evidence import Pair
    from bench.claims.intervals import Mean
    from bench.claims.searches import Found, SearchRun
    from bench.experiments.tables import Choice
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
    the figure's own rates). Every point that is tried is kept among the results, so that an
    interrupted search continues where it was, and `bench report` uses finished ones for the claims
    about sustained rates (those of --figure).
    """
    from bench.commands.figure import tell
    from bench.results.store import Store

    target = Target(given["limit"], given["tolerance"])
    store = Store(given["artifacts"])
    search = _search_figures if given["figures"] else _search_one
    run = search(ctx, store, target=target, given=given)
    if run.failed is not None:
        tell(run.failed, store)
        ctx.exit(run.failed.exit_status)


for _option in command.params:
    if _option.name == "system":
        _option.required = False  # --figure does without


def _run(
    store: Store, searches: Iterable[Search], *, target: Target, given: Mapping[str, Any]
) -> SearchRun:
    from bench.claims.searches import run_searches
    from bench.progress import choose

    tell_runner(given)
    return run_searches(
        store,
        list(dict.fromkeys(searches)),
        target=target,
        seeds=given["seeds"],
        place=choose_place(given),
        display=choose(quiet=given["quiet"]),
    )


def _search_one(
    ctx: click.Context, store: Store, *, target: Target, given: Mapping[str, Any]
) -> SearchRun:
    """Search the system that the options describe, and print its capacity seed by seed."""
    from bench.point.serve import check_simulated

    asked = given["backend"]
    _check_one(given)
    given = settle(given)
    others = (*SEARCH_OPTIONS, "quick", "full", "runner_reason")
    spec = PointSpec(**{name: value for name, value in given.items() if name not in others})
    check_profile(spec)
    if spec.backend == "sim":
        check_simulated(spec)
    run = _run(store, [Search(spec, (spec.rate,))], target=target, given=given)
    tell_backend(asked, spec.backend)
    for found in run.found.values():
        if given["as_json"]:
            click.echo(json.dumps({**asdict(target), **_values(found)}))
            break
        header = ("seed", "sustained (req/s)", "exceeded (req/s)", "capacity (req/s)", "points")
        rows = [
            (f"{s}", f"{b.sustained:g}", f"{b.exceeded:g}", f"{b.capacity:.4g}", f"{len(b.probes)}")
            for s, b in found.brackets.items()
        ]
        print_table(header, rows)
        click.echo(f"{spec.system} sustains {_mean_text(found.mean)} req/s")
    return run


def _check_one(given: Mapping[str, Any]) -> None:
    """Raise UserError for what does not go with a search of one system."""
    if given["system"] is None:
        raise UserError("say what to search: --system NAME, or --figure NAME for a figure's claims")
    for name in ("quick", "full"):
        if given[name]:
            raise UserError(
                f"--{name} goes with --figure: give the length of the trace as --duration"
            )
    for name, why in (
        ("trace", "a trace has a rate of its own"),
        ("timeout", "requests that are cut off would not count"),
    ):
        if given[name] is not None:
            raise UserError(f"a search varies the rate until requests queue: omit --{name} ({why})")


def _search_figures(
    ctx: click.Context, store: Store, *, target: Target, given: Mapping[str, Any]
) -> SearchRun:
    """Search all curves behind the ratio claims of figures; print capacities and ratios."""
    from bench.claims.evidence import search_of

    choice, given = _figure_choice(ctx, given)
    pairs = _pairs(given["figures"])
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
    run = _run(store, searches.values(), target=target, given=given)
    if run.found:
        found = {key: run.found[one] for key, one in searches.items()}
        _print_figures(found, pairs, target=target, as_json=given["as_json"])
    return run


def _figure_choice(
    ctx: click.Context, given: Mapping[str, Any]
) -> tuple[Choice, Mapping[str, Any]]:
    """The results that are meant, and the options settled; a figure's settings are its own."""
    from bench.experiments.effort import Effort
    from bench.experiments.tables import Choice

    def is_given(name: str) -> bool:
        return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT

    for option in ctx.command.params:
        name = option.name or ""
        if name not in (*SEARCH_OPTIONS, *FIGURE_OPTIONS) and is_given(name):
            raise UserError(f"--figure takes its settings from the registry: omit {option.opts[0]}")
    given = settle(given if is_given("backend") else {**given, "backend": "sim"})
    choice = Choice.of(
        backend=given["backend"],
        effort=Effort.of(quick=given["quick"], full=given["full"]),
        overrides=selection_overrides(
            lengths=given["lengths"], seed=given["seed"] if is_given("seed") else None
        ),
    )
    return choice, given


def _pairs(names: Iterable[str]) -> list[Pair]:
    from bench.claims.evidence import pairs_in
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


def _print_figures(
    found: Mapping[tuple[str, str], Found], pairs: Iterable[Pair], *, target: Target, as_json: bool
) -> None:
    from bench.claims.intervals import geometric_mean

    by_seed = {p: found[p.panel, p.over].over(found[p.panel, p.under]) for p in pairs}
    means = {pair: geometric_mean(list(ratios.values())) for pair, ratios in by_seed.items()}
    if not as_json:
        rows = [(panel, system, _mean_text(one.mean)) for (panel, system), one in found.items()]
        print_table(("panel", "system", "capacity (req/s)"), rows)
        rows = [(p.panel, f"{p.over} / {p.under}", _mean_text(m)) for p, m in means.items()]
        print_table(("panel", "ratio", "mean over seeds"), rows)
        return
    curves = [{"panel": panel, **_values(one)} for (panel, _), one in found.items()]
    ratios = [
        {
            **pair._asdict(),
            "mean": mean.value,
            "interval_95": mean.interval,
            "seeds": mean.count,
            "by_seed": {str(seed): value for seed, value in by_seed[pair].items()},
        }
        for pair, mean in means.items()
    ]
    click.echo(json.dumps({**asdict(target), "curves": curves, "ratios": ratios}))


def _mean_text(mean: Mean) -> str:
    seeds = f"{mean.count} seed{'s' if mean.count > 1 else ''}"
    if mean.interval is None:
        return f"{mean.value:.3g} ({seeds})"
    low, high = mean.interval
    return f"{mean.value:.3g} (95 % interval {low:.3g} to {high:.3g}, {seeds})"


def _values(found: Found) -> dict[str, Any]:
    settings = {k: v for k, v in found.spec.to_dict().items() if k not in ("rate", "seed")}
    return {
        **settings,
        "device": ", ".join(found.devices),
        "capacity_req_s": found.mean.value,
        "interval_95_req_s": found.mean.interval,
        "by_seed": [
            {
                "seed": seed,
                "capacity_req_s": bracket.capacity,
                "sustained_req_s": bracket.sustained,
                "exceeded_req_s": bracket.exceeded,
                "probes": [
                    {"rate": rate, "mean_normalized_latency_s": latency}
                    for rate, latency in bracket.probes
                ],
            }
            for seed, bracket in found.brackets.items()
        ],
    }
