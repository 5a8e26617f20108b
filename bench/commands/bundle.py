"""`bench bundle`: what an archival repository keeps, and the proof that it runs by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands import options
from bench.commands.output import note, print_table
from bench.docker import daemon
from bench.docker.bundle import load_images, serve_offline, verify_sums, write_bundle
from bench.docker.images import SYSTEMS, Recipe, checkout, ensure_image

if TYPE_CHECKING:
    from docker import DockerClient


@click.command("bundle")
@options.artifacts
@options.out_folder(help="The bundle.  [default: bundle in the artifacts directory]")
@options.image_device
@options.flag("--check", help="Write nothing: prove that the bundle runs offline.")
@options.build_arg
def command(
    *, artifacts: Path, out: Path | None, device: str, check: bool, build_arg: dict[str, str]
) -> None:
    """Archive images, lock files, results and sources with checksums, or check such a bundle.

    The check compares all checksums, loads the images, and runs a point of each system in a
    container without a network.
    """
    folder = out or artifacts / "bundle"
    client = daemon.connect()
    if check:
        _check(client, folder)
        return
    recipes = [Recipe(system, device, build_arg) for system in SYSTEMS]
    images = [ensure_image(client, recipe, note) for recipe in recipes]
    write_bundle(client, folder, images, root=checkout(), artifacts=artifacts)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    note(f"{folder}: {size / 1e9:.2f} GB; prove it with `bench bundle --check --out {folder}`")


def _check(client: DockerClient, folder: Path) -> None:
    note(f"{verify_sums(folder)} files match their checksums")
    images = load_images(client, folder)
    rows = [(image.name, image.image_id[:19], serve_offline(client, image)) for image in images]
    print_table(("image", "digest", "a point without network"), rows)
