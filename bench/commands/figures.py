"""`bench figures`: the registry as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from bench.commands import options
from bench.commands.output import print_json, print_table, say
from bench.experiments import registry
from bench.experiments.effort import Effort, gpu_hours
from bench.experiments.model import Figure
from bench.experiments.times import costs
from bench.progress import clock

EFFORTS = tuple(effort.value for effort in Effort)
HEADER = ("name", "title", "points", *EFFORTS, "paper's hardware")
MARKDOWN_HEADER = ("figure", "command", *EFFORTS, "results", "the paper's GPUs", "GPU-h")


@click.command("figures")
@options.as_json(help="Print a JSON list instead of a table.")
@options.flag("--markdown", help="Print the table of docs/running.md.")
def command(*, as_json: bool, markdown: bool) -> None:
    """List the figures of the paper: points, times on two cores, the paper's hardware.

    Times are of the simulation: a quick run, the original scripts' traces, and the default, the
    paper's.
    Parts, panels and groups that `bench figure` takes follow below the table.
    """
    rows = [_row(figure) for figure in registry.FIGURES.values()]
    if as_json:
        print_json(rows, indent=1)
    elif markdown:
        for line in markdown_lines(rows):
            say(line)
    else:
        print_table(HEADER, [_cells(row) for row in rows])
        shorter = ", ".join(name for name in registry.names() if name not in registry.FIGURES)
        say(f"Also: {shorter}")


def _row(figure: Figure) -> dict[str, Any]:
    known = costs(figure.name)
    return {
        "name": figure.name,
        "number": figure.name.removeprefix("fig").replace("-", ""),
        "title": figure.title,
        "claim": figure.claim,
        "points": len(figure.points()),
        "sim_seconds": {name: known.get(name, {}).get("seconds") for name in EFFORTS},
        "megabytes": {name: known.get(name, {}).get("megabytes") for name in EFFORTS},
        "hardware": figure.hardware,
        "gpu_hours": {name: round(gpu_hours(figure, Effort(name)), 1) for name in EFFORTS},
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    hours = row["gpu_hours"]["full"]
    return (
        row["name"],
        row["title"],
        str(row["points"] or "-"),
        *_times(row),
        f"{row['hardware']}{f', {hours:.0f} GPU-h' if hours else ''}",
    )


def markdown_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The registry as the lines of a Markdown table: command, times, disk, hardware."""
    total = {
        "number": "all",
        "name": "all",
        **{
            key: {effort: sum(row[key][effort] or 0.0 for row in rows) for effort in EFFORTS}
            for key in ("sim_seconds", "megabytes", "gpu_hours")
        },
        "hardware": "8x A100-80GB",
    }
    rule = ["---"] * len(MARKDOWN_HEADER)
    cells = [MARKDOWN_HEADER, rule, *(_markdown_cells(row) for row in (*rows, total))]
    return [f"| {' | '.join(line)} |" for line in cells]


def _markdown_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    megabytes, hours = row["megabytes"]["full"], row["gpu_hours"].values()
    return (
        row["number"],
        f"`make {row['name']}`",
        *_times(row),
        "-" if megabytes is None else "< 1 MB" if megabytes < 1 else f"{megabytes:.0f} MB",
        row["hardware"] or "-",
        " / ".join(f"{value:.3g}" for value in hours) if any(hours) else "-",
    )


def _times(row: Mapping[str, Any]) -> Iterable[str]:
    return ("-" if s is None else clock(s) for s in row["sim_seconds"].values())
