"""`bench plot`: draw figures from the results that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import resolve_backend, selection_options, selection_overrides

if TYPE_CHECKING:
    from bench.results import Store


@click.command("plot")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@selection_options
def command(*, names: tuple[str, ...], artifacts: str, **choice: Any) -> None:
    """Draw figures from the results that are there, as PDF and PNG.

    NAME is as for `bench figure`, and the options must be those the points were run with.
    Missing points are visible gaps; corrupt ones are refused.
    """
    from bench.experiments import registry
    from bench.experiments.scaling import with_speed
    from bench.results import Store

    for name in names:
        registry.find(name).require_runnable()
    backend = resolve_backend(choice["backend"])
    overrides = with_speed(
        selection_overrides(**choice), Path(artifacts), backend=backend, measures=False
    )
    draw_all(names, Store(artifacts), backend=backend, full=choice["full"], overrides=overrides)


def draw_all(
    names: Sequence[str],
    store: Store,
    *,
    backend: str,
    full: bool,
    overrides: Mapping[str, Any],
) -> list[Path]:
    """Draw into `figures/` and print the paths of the files."""
    from bench.files import check_writable
    from plot.draw import draw

    directory = store.root / "figures"
    check_writable(directory)
    paths: dict[Path, None] = {}
    for name in names:
        drawn = draw(name, store, directory, backend=backend, full=full, overrides=overrides)
        paths |= dict.fromkeys(drawn)
    for path in paths:
        click.echo(str(path))
    return list(paths)
