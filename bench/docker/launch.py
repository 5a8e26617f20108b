"""Run a command of `bench` in a system's image, as `bench launch` does."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.container import Confinement, remove_ended, run_command
from bench.docker.daemon import connect
from bench.docker.gpus import find_gpus
from bench.docker.images import Image, Recipe, ensure_image
from bench.files import check_writable
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

Note = Callable[[str], None]


def launch(
    recipe: Recipe,
    words: Sequence[str],
    artifacts: Path,
    note: Note,
    *,
    out: Callable[[bytes], object],
    errors: Callable[[bytes], object],
) -> int:
    """Run `words` in a container, with all free GPUs if the image is for GPUs.

    The image is built first if need be. Returns the exit status; raises UserError where the
    container cannot start.
    """
    with closing(connect()) as client:
        image, confinement = _prepare(client, recipe, artifacts, note)
        return run_command(client, image, words, confinement, out=out, errors=errors)


def launch_json(recipe: Recipe, words: Sequence[str], artifacts: Path, note: Note) -> Any:
    """Like `launch`, for a command that prints JSON; raises UserError if it fails."""
    with closing(connect()) as client:
        image, confinement = _prepare(client, recipe, artifacts, note)
        return run_json(client, image, words, confinement)


def run_json(
    client: DockerClient, image: Image, words: Sequence[str], confinement: Confinement
) -> Any:
    """Run a command and return the JSON that it prints; raises UserError if it fails."""
    out, errors = io.BytesIO(), io.BytesIO()
    status = run_command(client, image, words, confinement, out=out.write, errors=errors.write)
    if status != 0:
        lines = errors.getvalue().decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{image.name}: {shlex.join(words)}: status {status}: {lines[-1]}")
    return json.loads(out.getvalue())


def _prepare(
    client: DockerClient, recipe: Recipe, artifacts: Path, note: Note
) -> tuple[Image, Confinement]:
    check_writable(artifacts)
    on_gpus = recipe.device == "cuda"
    gpus = tuple(gpu for gpu in find_gpus() if gpu.idle) if on_gpus else ()
    if on_gpus and not gpus:
        raise UserError("no GPU is free here for a CUDA image: free one, or use --device cpu")
    remove_ended(client)
    return ensure_image(client, recipe, note), Confinement(artifacts, gpus=gpus)
