"""`bench data`: real lengths in place of shipped statistics."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.output import print_table
from bench.files import check_writable
from bench.workloads.datasets import (
    DATASETS,
    derive,
    fetch,
    find_dataset,
    import_file,
    lengths_path,
)

_DIRECTORY = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("artifacts/data"),
    help="Where the lengths lie.",
)


@click.group("data")
def command() -> None:
    """Fetch or import data sets.

    Real lengths are used where a command names their file with --lengths, and nowhere else.
    """


@command.command("list")
@_DIRECTORY
def list_command(*, directory: Path) -> None:
    """List the data sets: what is shipped, and whether real lengths are there."""
    rows = []
    for dataset in DATASETS.values():
        path = lengths_path(dataset.name, directory)
        real = str(path) if path.exists() else "bench data fetch" if dataset.url else "import only"
        rows.append((dataset.name, dataset.shipped, real))
    print_table(("name", "shipped", "real lengths"), rows)


@command.command("fetch")
@click.argument("name")
@_DIRECTORY
@click.option("--url", help="Another address of the same file (its checksum is pinned).")
def fetch_command(*, name: str, directory: Path, url: str | None) -> None:
    """Download the published lengths of data set NAME and check them."""
    find_dataset(name)
    check_writable(directory)
    click.echo(str(fetch(name, directory, url=url)))


@command.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_DIRECTORY
def import_command(*, name: str, file: Path, directory: Path) -> None:
    """Take FILE as the real lengths of data set NAME.

    FILE is a CSV with columns input_len,output_len (also .csv.gz), or the published pickle.
    """
    click.echo(str(import_file(name, file, directory)))


@command.command("derive")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where the statistics go.",
)
def derive_command(*, file: Path, out: Path) -> None:
    """Derive the shipped ShareGPT statistics again from its real lengths in FILE."""
    click.echo(str(derive(file, out)))
