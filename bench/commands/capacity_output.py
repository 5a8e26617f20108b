"""What `bench capacity` prints: tables for people, one JSON object for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bench.claims.capacity_search import Found, Target
from bench.claims.intervals import Mean
from bench.commands.tables import print_table

if TYPE_CHECKING:
    from bench.claims.searched import Ratio


def print_one(found: Found, *, target: Target, as_json: bool) -> None:
    """Print one system's search, seed by seed."""
    if as_json:
        click.echo(json.dumps({**asdict(target), **_values(found)}))
        return
    rows = [
        (str(seed), f"{b.sustained:g}", f"{b.exceeded:g}", f"{b.capacity:.4g}", str(len(b.probes)))
        for seed, b in found.brackets.items()
    ]
    header = ("seed", "sustained (req/s)", "exceeded (req/s)", "capacity (req/s)", "points")
    print_table(header, rows)
    click.echo(f"{found.spec.system} sustains {_mean_text(found.mean)} req/s")


def print_figures(
    found: Mapping[tuple[str, str], Found],
    ratios: Sequence[Ratio],
    *,
    target: Target,
    as_json: bool,
) -> None:
    """Print the capacities behind claims, and the ratios."""
    if as_json:
        values = {
            **asdict(target),
            "curves": [{"panel": panel, **_values(one)} for (panel, _), one in found.items()],
            "ratios": [_ratio_values(ratio) for ratio in ratios],
        }
        click.echo(json.dumps(values))
        return
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
