"""`bench bundle`: what an archival repository keeps, and the proof that it runs by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import artifacts_option
from bench.commands.places import build_arg_option, device_option, note, settle_device
from bench.commands.tables import print_table

if TYPE_CHECKING:
    from docker import DockerClient


@click.command("bundle")
@artifacts_option
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The bundle.  [default: bundle in the artifacts directory]",
)
@device_option
@click.option("--check", is_flag=True, help="Write nothing: prove that the bundle runs offline.")
@build_arg_option
def command(
    *, artifacts: str, out: str | None, device: str, check: bool, build_arg: tuple[str, ...]
) -> None:
    """Archive images, lock files, results and sources with checksums, or check such a bundle.

    The check compares all checksums, loads the images, and runs a point of each system in a
    container without a network.
    """
    from bench.docker.bundle import write_bundle
    from bench.docker.daemon import connect
    from bench.docker.images import SYSTEMS, Recipe, checkout, ensure_image, parse_build_args

    folder = Path(out) if out else Path(artifacts) / "bundle"
    client = connect()
    if check:
        _check(client, folder)
        return
    build_args, device = parse_build_args(build_arg), settle_device(device)
    recipes = [Recipe(system, device, build_args) for system in SYSTEMS]
    images = [ensure_image(client, recipe, note) for recipe in recipes]
    write_bundle(client, folder, images, root=checkout(), artifacts=Path(artifacts))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    note(f"{folder}: {size / 1e9:.2f} GB; prove it with `bench bundle --check --out {folder}`")


def _check(client: DockerClient, folder: Path) -> None:
    from bench.docker.bundle import load_images, serve_offline, verify_sums

    note(f"{verify_sums(folder)} files match their checksums")
    images = load_images(client, folder)
    rows = [(image.name, image.image_id[:19], serve_offline(client, image)) for image in images]
    print_table(("image", "digest", "a point without network"), rows)
