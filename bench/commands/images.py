"""`bench images`: build the systems' images, or say which are missing or stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from bench.commands.places import build_arg_option, device_option, note, settle_device
from bench.commands.tables import print_table
from bench.docker.context import SYSTEMS

if TYPE_CHECKING:
    from bench.docker.images import Images

_GB = 1e9


@click.command("images")
@click.option(
    "--system",
    "systems",
    multiple=True,
    type=click.Choice(SYSTEMS),
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
    from bench.docker.images import Images, ImageState, parse_build_args

    images = Images(connect(), build_args=parse_build_args(build_arg))
    device = settle_device(device)
    chosen = systems or SYSTEMS
    for system in () if only_list else chosen:
        recipe = images.recipe(system, device)
        if force or images.state(recipe) is not ImageState.FRESH:
            images.build(recipe, note)
    print_table(("image", "state", "size", "digest"), list(_rows(images, chosen, device)))


def _rows(
    images: Images, systems: tuple[str, ...], device: str
) -> Iterator[tuple[str, str, str, str]]:
    for system in systems:
        recipe = images.recipe(system, device)
        found = images.find(recipe)
        size = f"{found.size_bytes / _GB:.2f} GB" if found else "-"
        yield (recipe.name, images.state(recipe).value, size, found.image_id if found else "-")
