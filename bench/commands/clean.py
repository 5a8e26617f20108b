"""`bench clean`: remove what `bench` has made, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands import options
from bench.commands.output import note, say
from bench.experiments import registry
from bench.results.clean import find_made, remove
from engines.core.errors import UserError


@click.command("clean")
@options.artifacts
@options.flag("--yes", "-y", help="Remove without asking.")
def command(*, artifacts: Path, yes: bool) -> None:
    """Remove results, measured kernels, figures and report from the artifacts.

    Only files are removed that `bench` has made, as their names, places and contents tell; all
    others stay, with their folders. So do reference results and lengths of data sets.
    """
    made = find_made(artifacts, registry.names())
    for line in made.lines:
        say(line)
    if not made.paths:
        note(f"nothing to remove in {artifacts}")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"nobody to ask whether to remove these from {artifacts}: give --yes")
        click.confirm("Remove all of this?", abort=True, err=True)
    remove(made)
    note(f"removed {len(made.paths)} files from {artifacts}")
