"""`bench capacity`: the request rate that a system sustains, found by bisection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.capacity import LIMIT_S_PER_TOKEN
from bench.capacity_search import DEFAULT_SEEDS, DEFAULT_TOLERANCE, Found, Sought, Target
from bench.commands.options import (
    artifacts_option,
    point_options,
    quiet_option,
    resolve_backend,
    selection_overrides,
    tell_backend,
)
from bench.point import PointSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.intervals import Mean
    from bench.reporting.searched import Pair, Ratio
    from bench.results import Store

SEARCH_OPTIONS = ("figures", "limit", "tolerance", "seeds", "jobs", "as_json", "quiet", "artifacts")
FIGURE_OPTIONS = ("full", "seed", "lengths", "backend")


def _search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--figure",
            "figures",
            multiple=True,
            metavar="NAME",
            help="Search all curves behind the ratio claims of a figure instead (repeatable).",
        ),
        click.option("--full", is_flag=True, help="With --figure: the paper's trace lengths."),
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
        click.option("--jobs", "-j", type=click.IntRange(min=1), help="Points at a time."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("capacity")
@_search_options
@point_options
@artifacts_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Find the highest request rate that a system sustains: mean normalized latency below --limit.

    The options are those of `bench run`; --rate says where the search starts. Every point that is
    tried is kept among the results, so that an interrupted search goes on where it was, and
    `bench report` uses finished ones for the claims about sustained rates (those of --figure).
    """
    from bench.results import Store

    target = Target(given["limit"], given["tolerance"])
    store = Store(given["artifacts"])
    if given["figures"]:
        _refuse_settings(ctx)
        ctx.exit(_search_figures(ctx, store, target=target, given=given))
    if given["system"] is None:
        raise UserError("say what to search: --system NAME, or --figure NAME for a figure's claims")
    if given["full"]:
        raise UserError("--full goes with --figure: give the length of the trace as --duration")
    spec = _spec(given)
    sought = _run(store, [spec], target=target, given=given)
    tell_backend(given["backend"], spec.backend)
    if spec in sought.found:
        _print_one(sought.found[spec], target=target, as_json=given["as_json"])
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
    settings = {k: v for k, v in given.items() if k not in (*SEARCH_OPTIONS, "full")}
    return PointSpec(**{**settings, "backend": resolve_backend(given["backend"])})


def _run(
    store: Store, specs: Sequence[PointSpec], *, target: Target, given: Mapping[str, Any]
) -> Sought:
    from bench.capacity_search import run_searches
    from bench.progress import choose

    return run_searches(
        store,
        specs,
        target=target,
        seeds=given["seeds"],
        jobs=given["jobs"],
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
    from bench.experiments.tables import Choice
    from bench.reporting.searched import Ratio, spec_of

    pairs = _pairs(given["figures"])
    chosen = ctx.get_parameter_source("backend") is not click.core.ParameterSource.DEFAULT
    seed_given = ctx.get_parameter_source("seed") is not click.core.ParameterSource.DEFAULT
    choice = Choice.of(
        backend=resolve_backend(given["backend"]) if chosen else "sim",
        full=given["full"],
        overrides=selection_overrides(
            lengths=given["lengths"], seed=given["seed"] if seed_given else None
        ),
    )
    specs = {
        (pair.panel, system): spec_of(pair.panel, system, choice)
        for pair in pairs
        for system in (pair.over, pair.under)
    }
    sought = _run(store, list(dict.fromkeys(specs.values())), target=target, given=given)
    if sought.found:
        found = {key: sought.found[spec] for key, spec in specs.items()}
        ratios = [
            Ratio(pair, found[pair.panel, pair.over], found[pair.panel, pair.under])
            for pair in pairs
        ]
        _print_figures(found, ratios, target=target, as_json=given["as_json"])
    return _tell(sought, store)


def _pairs(names: Iterable[str]) -> list[Pair]:
    from bench.experiments import registry
    from bench.reporting.searched import pairs_in

    found: dict[Pair, None] = {}
    for name in names:
        selection = registry.find(name)
        selection.require_runnable()
        pairs = pairs_in(selection)
        if not pairs:
            raise UserError(
                f"no claim of '{name}' compares sustained rates: try fig12, or give --system"
            )
        found |= dict.fromkeys(pairs)
    return list(found)


def _print_one(found: Found, *, target: Target, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(target), **_values(found)}))
        return
    from bench.commands.tables import print_table

    rows = [
        (str(seed), f"{b.sustained:g}", f"{b.exceeded:g}", f"{b.capacity:.4g}", str(len(b.probes)))
        for seed, b in found.brackets.items()
    ]
    header = ("seed", "sustained (req/s)", "exceeded (req/s)", "capacity (req/s)", "points")
    print_table(header, rows)
    click.echo(f"{found.spec.system} sustains {_mean_text(found.mean)} req/s")


def _print_figures(
    found: Mapping[tuple[str, str], Found],
    ratios: Sequence[Ratio],
    *,
    target: Target,
    as_json: bool,
) -> None:
    if as_json:
        values = {
            **asdict(target),
            "curves": [{"panel": panel, **_values(one)} for (panel, _), one in found.items()],
            "ratios": [_ratio_values(ratio) for ratio in ratios],
        }
        click.echo(json.dumps(values))
        return
    from bench.commands.tables import print_table

    rows = [(panel, system, _mean_text(one.mean)) for (panel, system), one in found.items()]
    print_table(("panel", "system", "capacity (req/s)"), rows)
    pairs = [(r.pair.panel, f"{r.pair.over} / {r.pair.under}", _mean_text(r.mean)) for r in ratios]
    print_table(("panel", "ratio", "mean over seeds"), pairs)


def _mean_text(mean: Mean) -> str:
    seeds = f"{mean.count} seed{'s' if mean.count > 1 else ''}"
    if mean.interval is None:
        return f"{mean.value:.3g} ({seeds})"
    low, high = mean.interval
    return f"{mean.value:.3g} (95 % interval {low:.3g} to {high:.3g}, {seeds})"


def _mean_values(mean: Mean) -> dict[str, Any]:
    return {"mean": mean.value, "interval_95": mean.interval, "seeds": mean.count}


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


def _ratio_values(ratio: Ratio) -> dict[str, Any]:
    by_seed = {str(seed): value for seed, value in ratio.by_seed.items()}
    return {**asdict(ratio.pair), **_mean_values(ratio.mean), "by_seed": by_seed}
