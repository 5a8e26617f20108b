"""`bench capacity`: the request rate that a system sustains, found by bisection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import click

from bench.claims.bisection import DEFAULT_TOLERANCE, TOLERANCES, Search, Target
from bench.claims.deciding import FEWEST_SEEDS, decide
from bench.claims.evidence import Pair, pairs_in, ratio_claims, search_of
from bench.claims.intervals import Mean, geometric_mean
from bench.claims.searches import MOST_SEEDS, Found, run_searches
from bench.commands import options
from bench.commands.backend import check_profile
from bench.commands.output import print_json, print_table, say, tell_summary
from bench.commands.places import Where, settle
from bench.commands.point_options import SETTINGS as OF_POINTS
from bench.commands.point_options import is_given, point_options
from bench.commands.selection import choice_of
from bench.commands.types import Decimal, Whole
from bench.experiments import registry
from bench.experiments.capacity import LIMIT_S_PER_TOKEN
from bench.experiments.effort import Effort
from bench.experiments.tables import Choice
from bench.point.serve import check_simulated
from bench.point.spec import OF_TRACES, PointSpec
from bench.progress import choose
from bench.results.store import Store
from engines.core.errors import UserError

Searches = dict[tuple[str, str], Search]  # by panel and system
Ratios = dict[Pair, tuple[Mean, dict[int, float]]]  # of capacities: the mean, and by seed
SETTINGS = tuple(name for name in OF_POINTS if name not in OF_TRACES)
OF_FIGURES = ("seed", "lengths", "backend")  # settings that --figure leaves to the command line

_VARIES = "a search varies the rate until requests queue"
NOT_OF_SYSTEMS: Mapping[str, str] = {  # options that a search of one system refuses, and why
    **{
        name: f"--{name} goes with --figure: give the length of the trace as --duration"
        for name in Effort
    },
    "trace": f"{_VARIES}: omit --trace (a trace has a rate of its own)",
    "timeout": f"{_VARIES}: omit --timeout (requests that are cut off would not count)",
}


@click.command("capacity")
@click.option(
    "--figure",
    "figures",
    multiple=True,
    metavar="NAME",
    help="Search all curves behind the ratio claims of a figure instead (repeatable).",
)
@options.effort
@click.option(
    "--limit",
    type=Decimal(min=0, min_open=True),
    default=LIMIT_S_PER_TOKEN,
    help="Mean normalized latency that is still sustained, in s/token.",
)
@click.option(
    "--tolerance",
    type=Decimal(*TOLERANCES),
    default=DEFAULT_TOLERANCE,
    help="How closely the rate is enclosed, as a fraction of it.",
)
@click.option(
    "--seeds",
    type=Whole(1, MOST_SEEDS),
    help="Searches, each with a seed of its own, from --seed on.  [default: 3; with --figure "
    "as many as its claims need, at most 10]",
)
@options.as_json(help="Print one JSON object.")
@options.place
@point_options(without=OF_TRACES, system_required=False)  # --figure does without
@options.artifacts
@options.quiet
@click.pass_context
def command(ctx: click.Context, /, *, figures: tuple[str, ...], **given: Any) -> None:
    """Find the highest request rate that a system sustains: mean normalized latency below --limit.

    The options are those of `bench run`; --rate says where the search starts (with --figure: among
    the figure's own rates). Every point that is tried is kept among the results, so that an
    interrupted search continues where it was, and `bench report` uses finished ones for the claims
    about sustained rates (those of --figure).
    """
    target, store = Target(given["limit"], given["tolerance"]), Store(given["artifacts"])
    _check(ctx, given, of_figures=bool(figures))
    where = settle(**given)
    choice = choice_of(given, where.backend, names=())
    pairs = _pairs(figures)
    searches = _figure_searches(pairs, choice) if figures else _search(where, given)
    where.tell(given["backend"])
    place, display = where.place(), choose(quiet=given["quiet"])
    if figures and given["seeds"] is None:
        claims = ratio_claims(map(registry.find, figures))
        run = decide(store, claims, choice, target=target, place=place, display=display)
    else:
        seeds = dict.fromkeys(searches.values(), given["seeds"] or FEWEST_SEEDS)
        run = run_searches(store, seeds, target=target, place=place, display=display)
    if run.failed is not None:
        tell_summary(run.failed, store)
        ctx.exit(run.failed.exit_status)
    found = {key: run.found[search] for key, search in searches.items()}
    by_seed = {p: found[p.panel, p.over].over(found[p.panel, p.under]) for p in pairs}
    ratios = {pair: (geometric_mean(list(each.values())), each) for pair, each in by_seed.items()}
    if given["as_json"]:
        shown = _figures_values(found, ratios) if figures else _values(*found.values())
        print_json({**asdict(target), **shown})
    elif figures:
        _print_figures(found, ratios)
    else:
        _print(*found.values())


def _check(ctx: click.Context, given: dict[str, Any], *, of_figures: bool) -> None:
    """Raise UserError for options that do not go with the search; set the defaults of --figure."""
    if of_figures:
        for option in ctx.command.params:
            name = option.name or ""
            if name in SETTINGS and name not in OF_FIGURES and is_given(ctx, name):
                raise UserError(
                    f"--figure takes its settings from the registry: omit {option.opts[0]}"
                )
        given["seed"] = given["seed"] if is_given(ctx, "seed") else None
        given["backend"] = given["backend"] if is_given(ctx, "backend") else "sim"
        return
    if given["system"] is None:
        raise UserError("say what to search: --system NAME, or --figure NAME for a figure's claims")
    for name, refusal in NOT_OF_SYSTEMS.items():
        if given[name]:
            raise UserError(refusal)


def _search(where: Where, given: Mapping[str, Any]) -> Searches:
    """The search for the system that the options describe."""
    settings = {name: given[name] for name in SETTINGS}
    spec = PointSpec(**{**settings, "backend": where.backend})
    check_profile(spec)
    if spec.backend == "sim":
        check_simulated(spec)
    return {("", spec.system): Search(spec, (spec.rate,))}


def _figure_searches(pairs: Iterable[Pair], choice: Choice) -> Searches:
    """The searches for all curves that claims compare."""
    searches = {
        (pair.panel, system): search_of(pair.panel, system, choice)
        for pair in pairs
        for system in (pair.over, pair.under)
    }
    if any(search.spec.timeout is not None for search in searches.values()):
        raise UserError(
            f"figures on backend '{choice.backend}' cut requests off, so that no rate is sustained "
            "or not: give a system with --system instead of --figure"
        )
    return searches


def _pairs(names: Iterable[str]) -> list[Pair]:
    """The pairs of curves that the claims of figures compare; raises UserError if none does."""
    found: dict[Pair, None] = {}
    for name in names:
        pairs = pairs_in(registry.find(name))
        if not pairs:
            raise UserError(
                f"no claim of '{name}' compares sustained rates: try fig12, or give --system"
            )
        found |= dict.fromkeys(pairs)
    return list(found)


def _print(found: Found) -> None:
    """Print a capacity seed by seed."""
    header = ("seed", "sustained (req/s)", "exceeded (req/s)", "capacity (req/s)", "points")
    rows = [
        (f"{s}", f"{b.sustained:g}", f"{b.exceeded:g}", f"{b.capacity:.4g}", f"{len(b.probes)}")
        for s, b in found.brackets.items()
    ]
    print_table(header, rows)
    say(f"{found.spec.system} sustains {_mean_text(found.mean)} req/s")


def _print_figures(found: Mapping[tuple[str, str], Found], ratios: Ratios) -> None:
    """Print the capacities and their ratios."""
    rows = [(panel, system, _mean_text(one.mean)) for (panel, system), one in found.items()]
    print_table(("panel", "system", "capacity (req/s)"), rows)
    rows = [(p.panel, f"{p.over} / {p.under}", _mean_text(m)) for p, (m, _) in ratios.items()]
    print_table(("panel", "ratio", "mean over seeds"), rows)


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


def _figures_values(found: Mapping[tuple[str, str], Found], ratios: Ratios) -> dict[str, Any]:
    return {
        "curves": [{"panel": panel, **_values(one)} for (panel, _), one in found.items()],
        "ratios": [
            {
                **pair._asdict(),
                "mean": mean.value,
                "interval_95": mean.interval,
                "seeds": mean.count,
                "by_seed": {str(seed): value for seed, value in by_seed.items()},
            }
            for pair, (mean, by_seed) in ratios.items()
        ],
    }
