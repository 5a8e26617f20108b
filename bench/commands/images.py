"""`bench images`: build the systems' images, or say which are missing or stale."""

from __future__ import annotations

import click

from bench.commands import options
from bench.commands.output import note, print_table
from bench.docker import daemon
from bench.docker.images import SYSTEMS, Recipe, build_image, find_image, state_of


@click.command("images")
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(SYSTEMS),
    default=SYSTEMS,
    show_default=False,
    help="Whose image.  [default: all three]",
)
@options.image_device
@options.flag("--force", help="Build images again that are fresh.")
@options.flag("--list", "only_list", help="Build nothing.")
@options.build_arg
def command(
    *,
    systems: tuple[str, ...],
    device: str,
    force: bool,
    only_list: bool,
    build_arg: dict[str, str],
) -> None:
    """Build the images that are missing, or stale against this checkout, and list them."""
    client = daemon.connect()
    rows = []
    for system in systems:
        recipe = Recipe(system, device, build_arg)
        found = find_image(client, recipe)
        if not only_list and (force or state_of(found, recipe) != "fresh"):
            found = build_image(client, recipe, note)
        size = f"{found.size_bytes / 1e9:.2f} GB" if found else "-"
        digest = found.image_id if found else "-"
        rows.append((recipe.name, state_of(found, recipe), size, digest))
    print_table(("image", "state", "size", "digest"), rows)
