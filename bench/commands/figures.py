"""`bench figures`: the registry as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
TABLE = ("name", "title", "points", *EFFORTS, "paper's hardware")
MARKDOWN = ("figure", "command", *EFFORTS, "results", "the paper's GPUs", "GPU-h")


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
        return
    columns = MARKDOWN if markdown else TABLE
    table = [[_cells(row)[name] for name in columns] for row in (*rows, _total(rows))]
    if markdown:
        for line in (columns, ["---"] * len(columns), *table):
            say(f"| {' | '.join(line)} |")
    else:
        print_table(columns, table)
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


def _total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": "all",
        "number": "all",
        "title": "Every figure",
        "points": sum(row["points"] for row in rows),
        **{
            key: {effort: sum(row[key][effort] or 0.0 for row in rows) for effort in EFFORTS}
            for key in ("sim_seconds", "megabytes", "gpu_hours")
        },
        "hardware": "8x A100-80GB",
    }


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a row by the heads of their columns, those of both tables."""
    hours, mb = row["gpu_hours"], row["megabytes"]["full"]
    size = "-" if mb is None else "< 1 MB" if mb < 1 else f"{mb:.0f} MB"
    whole = f", {hours['full']:.0f} GPU-h" if hours["full"] else ""
    return {
        "name": row["name"],
        "figure": row["number"],
        "title": row["title"],
        "command": f"`make {row['name']}`",
        "points": str(row["points"] or "-"),
        **{name: "-" if s is None else clock(s) for name, s in row["sim_seconds"].items()},
        "results": size,
        "the paper's GPUs": row["hardware"] or "-",
        "GPU-h": " / ".join(f"{value:.3g}" for value in hours.values()) if whole else "-",
        "paper's hardware": f"{row['hardware']}{whole}",
    }
