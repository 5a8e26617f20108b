"""`bench images`: build the systems' images, or say which are missing or stale."""

from __future__ import annotations

import click

from bench.commands.places import build_arg_option, device_option, note, settle_device
from bench.commands.tables import print_table
from bench.docker.images import SYSTEMS


@click.command("images")
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(SYSTEMS),
    default=SYSTEMS,
    help="Whose image.  [default: all three]",
)
@device_option
@click.option("--force", is_flag=True, help="Build images again that are fresh.")
@click.option("--list", "only_list", is_flag=True, help="Build nothing.")
@build_arg_option
def command(
    *,
    systems: tuple[str, ...],
    device: str,
    force: bool,
    only_list: bool,
    build_arg: tuple[str, ...],
) -> None:
    """Build the images that are missing, or stale against this checkout, and list them."""
    from bench.docker.daemon import connect
    from bench.docker.images import Recipe, build_image, find_image, parse_build_args, state_of

    client, build_args = connect(), parse_build_args(build_arg)
    rows = []
    for system in systems:
        recipe = Recipe(system, settle_device(device), build_args)
        found = find_image(client, recipe)
        if not only_list and (force or state_of(found, recipe) != "fresh"):
            found = build_image(client, recipe, note)
        size = f"{found.size_bytes / 1e9:.2f} GB" if found else "-"
        digest = found.image_id if found else "-"
        rows.append((recipe.name, state_of(found, recipe), size, digest))
    print_table(("image", "state", "size", "digest"), rows)
