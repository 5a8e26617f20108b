"""`bench launch`: any command of `bench` in a system's image."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import artifacts_option
from bench.commands.places import build_arg_option, device_option, note, settle_device
from engines.core.config import System
from engines.core.errors import UserError


@click.command("launch", context_settings={"ignore_unknown_options": True})
@click.option(
    "--system",
    required=True,
    metavar="|".join(system.value for system in System),
    help="Whose image.",
)
@device_option
@artifacts_option
@build_arg_option
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    system: str,
    device: str,
    artifacts: str,
    build_arg: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    """Run a command of `bench` in a container: bench launch --system orca-max -- run --system ...

    The image is built first if it is missing or stale. The container sees the artifacts directory
    as `artifacts` and nothing else of this machine; it has no network. Exits like the command.
    """
    from bench.docker.command import run_command
    from bench.docker.container import WORK, Confinement
    from bench.docker.daemon import connect
    from bench.docker.gpus import find_gpus
    from bench.docker.images import Images, image_system, parse_build_args
    from bench.docker.owner import sweep
    from bench.files import check_writable

    results = Path(artifacts).absolute()
    check_writable(results)
    client = connect()
    sweep(client, note)
    images = Images(client, build_args=parse_build_args(build_arg))
    device = settle_device(device)
    gpus = tuple(gpu for gpu in find_gpus() if gpu.idle) if device == "cuda" else ()
    if device == "cuda" and not gpus:
        raise UserError("no GPU is free here for a CUDA image: free one, or use --device cpu")
    image = images.ensure(images.recipe(image_system(system), device), note)
    results.mkdir(parents=True, exist_ok=True)
    confinement = Confinement(results, gpus=gpus, results_at=f"{WORK}/artifacts")
    ctx.exit(run_command(client, image, ("bench", *words), confinement))
