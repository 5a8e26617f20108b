"""`bench plot`: draw figures from the results that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.claims.evidence import Evidence
from bench.commands import options
from bench.commands.backend import resolve_backend
from bench.commands.output import say
from bench.commands.selection import choice_of
from bench.experiments.tables import Choice
from bench.files import check_writable
from bench.results.store import Snapshot, Store


@click.command("plot")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@options.selection
def command(*, names: tuple[str, ...], **given: Any) -> None:
    """Draw figures from the results that are there, as PDF and PNG.

    NAME is as for `bench figure`, and the options must be those the points were run with.
    Missing points are visible gaps; corrupt ones are refused.
    """
    choice = choice_of(given, resolve_backend(given["backend"]), names)
    draw_all(names, Snapshot(given["artifacts"]), choice)


def draw_all(names: Sequence[str], store: Store, choice: Choice) -> None:
    """Draw into the choice's folder of figures and print the paths of the files."""
    from plot.draw import draw

    directory = figures_folder(store, choice)
    check_writable(directory)
    searched = Evidence(store, choice).searched
    drawn = (draw(name, store, directory, choice, searched=searched) for name in names)
    for path in dict.fromkeys(path for paths in drawn for path in paths):
        say(str(path))


def figures_folder(store: Store, choice: Choice) -> Path:
    """Where figures lie: quick and short ones apart from those of the paper's traces."""
    return store.root / "figures" / choice.folder
