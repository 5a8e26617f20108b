"""`bench figures`: the registry as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from bench.commands.tables import print_table
from bench.progress import clock

if TYPE_CHECKING:
    from bench.experiments.model import Figure


@click.command("figures")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
@click.option("--markdown", is_flag=True, help="Print the README's table.")
def command(*, as_json: bool, markdown: bool) -> None:
    """List the figures of the paper: points, time on two cores, the paper's hardware.

    Times are of the simulation at the original scripts' trace lengths. Parts, panels and groups
    that `bench figure` takes follow below the table.
    """
    from bench.experiments import registry

    rows = [_row(figure) for figure in registry.FIGURES.values()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if markdown:
        click.echo(markdown_table(rows))
        return
    header = ("name", "title", "points", "simulated", "paper's hardware", "runs here")
    print_table(header, [_cells(row) for row in rows])
    shorter = ", ".join(name for name in registry.names() if name not in registry.FIGURES)
    click.echo(f"Also: {shorter}")


def _row(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "number": figure.name.removeprefix("fig").replace("-", ""),
        "title": figure.title,
        "claim": figure.claim,
        "points": len(figure.points()),
        "sim_seconds": figure.sim_seconds,
        "hardware": figure.hardware,
        "gpu_hours": round(figure.gpu_hours, 1),
        "pending": figure.pending,
    }


def markdown_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The registry as a Markdown table: command, claim, time, hardware."""
    lines = [
        "| figure | command | the paper's claim | simulated, 2 cores | measured, paper's GPUs |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        command = "*not yet*" if row["pending"] else f"`make {row['name']}`"
        simulated = clock(row["sim_seconds"]) if row["sim_seconds"] else "-"
        hours = f", {row['gpu_hours']:.0f} GPU-h" if row["gpu_hours"] else ""
        hardware = f"{row['hardware']}{hours}" if row["hardware"] else "-"
        lines.append(f"| {row['number']} | {command} | {row['claim']} | {simulated} | {hardware} |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    hours = f", {row['gpu_hours']:.0f} GPU hours" if row["gpu_hours"] else ""
    return (
        row["name"],
        row["title"],
        str(row["points"] or "-"),
        clock(row["sim_seconds"]) if row["sim_seconds"] else "-",
        f"{row['hardware']}{hours}" if row["hardware"] else "-",
        "not yet" if row["pending"] else "yes",
    )
