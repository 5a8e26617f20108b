"""`bench launch`: any command of `bench` in a system's image."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bench.commands import options
from bench.commands.output import note, pass_on
from bench.commands.point_options import SYSTEM_VARIABLE
from bench.docker.container import run_command
from bench.docker.images import Recipe, image_system
from bench.docker.launch import prepared
from engines.core.config import System


@click.command("launch", context_settings={"ignore_unknown_options": True})
@click.option(
    "--system",
    required=True,
    metavar="|".join(system.value for system in System),
    help="Whose image, and what it serves.",
)
@options.image_device
@options.artifacts
@options.build_arg
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    system: str,
    device: str,
    artifacts: Path,
    build_arg: dict[str, str],
    words: tuple[str, ...],
) -> None:
    """Run a command of `bench` in a container: bench launch --system orca-pow2 -- run --rate 2

    A command that takes --system serves the same one without. The image is built first if it is
    missing or stale. The container sees the artifacts directory as `artifacts` and nothing else of
    this machine; it has no network. Exits like the command.
    """
    recipe = Recipe(image_system(system), device, build_arg)
    words = ("env", f"{SYSTEM_VARIABLE}={system}", "bench", *words)
    with prepared(recipe, artifacts, note) as container:
        errors = partial(pass_on, err=True)
        status = run_command(*container, words, out=pass_on, errors=errors)
    ctx.exit(status)
