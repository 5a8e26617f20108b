"""`bench figures`: the registry as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.commands.tables import print_table
from bench.progress import clock

if TYPE_CHECKING:
    from bench.experiments.model import Figure

EFFORTS = ("quick", "default", "full")
MARKDOWN_HEAD = (
    *("figure", "command", "the paper's claim"),
    *(*EFFORTS, "results", "the paper's GPUs", "GPU-h"),
)


@click.command("figures")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.option("--markdown", is_flag=True, help="Print the README's table.")
def command(*, as_json: bool, markdown: bool) -> None:
    """List the figures of the paper: points, times on two cores, the paper's hardware.

    Times are of the simulation: a quick run, the original scripts' traces, the paper's traces.
    Parts, panels and groups that `bench figure` takes follow below the table.
    """
    from bench.experiments import registry

    rows = [_row(figure) for figure in registry.FIGURES.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if markdown:
        click.echo(markdown_table(rows))
        return
    header = ("name", "title", "points", *EFFORTS, "paper's hardware", "runs here")
    print_table(header, [_cells(row) for row in rows])
    shorter = ", ".join(name for name in registry.names() if name not in registry.FIGURES)
    click.echo(f"Also: {shorter}")


def _row(figure: Figure) -> dict[str, Any]:
    from bench.experiments.effort import Effort, gpu_hours
    from bench.experiments.times import cost_of

    costs = {effort.value: cost_of(figure.name, effort) for effort in Effort}
    return {
        "name": figure.name,
        "number": figure.name.removeprefix("fig").replace("-", ""),
        "title": figure.title,
        "claim": figure.claim,
        "points": len(figure.points()),
        "sim_seconds": {name: cost and cost.seconds for name, cost in costs.items()},
        "megabytes": {name: cost and cost.megabytes for name, cost in costs.items()},
        "hardware": figure.hardware,
        "gpu_hours": {effort.value: round(gpu_hours(figure, effort), 1) for effort in Effort},
        "pending": figure.pending,
    }


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The registry as a Markdown table: command, claim, times, disk, hardware."""
    cells = [list(MARKDOWN_HEAD), ["---"] * len(MARKDOWN_HEAD)]
    for row in rows:
        cells.append(
            [
                row["number"],
                "*not yet*" if row["pending"] else f"`make {row['name']}`",
                row["claim"],
                *(_clock(row["sim_seconds"][effort]) for effort in EFFORTS),
                _disk(row["megabytes"]["default"]),
                row["hardware"] or "-",
                _hours(row),
            ]
        )
    cells.append(_total(rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _total(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All figures one after another."""
    times = [_sum(row["sim_seconds"][effort] for row in rows) for effort in EFFORTS]
    hours = [_sum(row["gpu_hours"][effort] for row in rows) for effort in EFFORTS]
    return [
        *("all", "`make all`", "everything above that runs here"),
        *map(_clock, times),
        _disk(_sum(row["megabytes"]["default"] for row in rows)),
        "8x A100-80GB",
        " / ".join(f"{value:.3g}" for value in hours if value),
    ]


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else clock(seconds)


def _disk(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:.0f} MB" if megabytes >= 1 else "< 1 MB"


def _hours(row: Mapping[str, Any]) -> str:
    hours = [row["gpu_hours"][effort] for effort in EFFORTS]
    return " / ".join(f"{value:.3g}" for value in hours) if any(hours) else "-"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    hours = row["gpu_hours"]["full"]
    return (
        row["name"],
        row["title"],
        str(row["points"] or "-"),
        *(_clock(row["sim_seconds"][effort]) for effort in EFFORTS),
        f"{row['hardware']}{f', {hours:.0f} GPU hours' if hours else ''}",
        "not yet" if row["pending"] else "yes",
    )
