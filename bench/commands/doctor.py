"""`bench doctor`: what of this machine serves, and what to do about the rest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bench.commands import options
from bench.commands.output import print_json, print_table
from bench.devices.doctor import examine
from bench.docker.checks import Level


@click.command("doctor")
@options.artifacts
@options.as_json(help="Print a JSON list instead of a table.")
@click.pass_context
def command(ctx: click.Context, /, *, artifacts: Path, as_json: bool) -> None:
    """Check this machine: versions, cores, memory, disk, git, Ray, GPU and Docker.

    Exits with 1 if something that everything needs is missing, else with 0.
    """
    findings = examine(artifacts)
    if as_json:
        print_json([asdict(finding) for finding in findings], indent=1)
    else:
        rows = [(f.level.value, f.name, f.found, f.remedy) for f in findings]
        print_table(("", "what", "found", "remedy"), rows)
    ctx.exit(1 if any(finding.level is Level.FAIL for finding in findings) else 0)
