"""`bench bundle`: what an archival repository keeps, and the proof that it runs by itself."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import artifacts_option
from bench.commands.places import build_arg_option, device_option, note, settle_device
from bench.commands.tables import print_table
from bench.docker.context import SYSTEMS

if TYPE_CHECKING:
    from docker import DockerClient

    from bench.docker.images import Image

_POINT = ("run", "--backend", "sim", "--rate", "2", "--duration", "60", "--json", "--quiet")
_SYSTEM_OF = {"astra": "astra", "orca": "orca-max", "ft": "ft"}


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
    from bench.docker.daemon import connect

    folder = Path(out) if out else Path(artifacts) / "bundle"
    client = connect()
    if check:
        _check(client, folder)
    else:
        _write(client, folder, Path(artifacts), device=device, build_arg=build_arg)


def _write(
    client: DockerClient,
    folder: Path,
    artifacts: Path,
    *,
    device: str,
    build_arg: tuple[str, ...],
) -> None:
    from bench.docker.bundle import Contents, write_bundle
    from bench.docker.images import Images, parse_build_args

    images = Images(client, build_args=parse_build_args(build_arg))
    fresh = [
        images.ensure(images.recipe(system, settle_device(device)), note) for system in SYSTEMS
    ]
    write_bundle(client, Contents(images.root, fresh, artifacts), folder, note)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    note(f"{folder}: {size / 1e9:.2f} GB; prove it with `bench bundle --check --out {folder}`")


def _check(client: DockerClient, folder: Path) -> None:
    from bench.docker.bundle import load_images, verify_sums
    from bench.docker.owner import sweep

    count = verify_sums(folder)
    note(f"{count} files match their checksums")
    sweep(client, note)
    images = load_images(client, folder)
    rows = [(image.name, image.image_id[:19], _serve(client, image)) for image in images]
    print_table(("image", "digest", "a point without network"), rows)


def _serve(client: DockerClient, image: Image) -> str:
    """Run a point in the image, confined and offline, and say what came of it."""
    from bench.docker.command import ask_command
    from bench.docker.container import Confinement

    system = _SYSTEM_OF[image.name.partition(":")[0].removeprefix("sosp23-")]
    with tempfile.TemporaryDirectory() as results:
        words = ("bench", *_POINT, "--system", system)
        metrics = json.loads(ask_command(client, image, words, Confinement(Path(results))))
    return f"{metrics['finished']} of {metrics['requests']} requests served"
