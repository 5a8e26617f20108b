"""Commands of `bench` in a system's image, one at a time."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
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


@contextmanager
def prepared(
    recipe: Recipe, artifacts: Path, note: Callable[[str], None]
) -> Iterator[tuple[DockerClient, Image, Confinement]]:
    """Yield a client, a fresh image and what its containers may use: free GPUs if it is for GPUs.

    The image is built first if need be. Raises UserError where nothing can run.
    """
    with closing(connect()) as client:
        check_writable(artifacts)
        on_gpus = recipe.device == "cuda"
        gpus = tuple(gpu for gpu in find_gpus() if gpu.idle) if on_gpus else ()
        if on_gpus and not gpus:
            raise UserError("no GPU is free here for a CUDA image: free one, or use --device cpu")
        remove_ended(client)
        yield client, ensure_image(client, recipe, note), Confinement(artifacts, gpus=gpus)


def run_json(
    client: DockerClient, image: Image, confinement: Confinement, words: Sequence[str]
) -> Any:
    """Run a command and return the JSON that it prints; raises UserError if it fails."""
    out, errors = io.BytesIO(), io.BytesIO()
    status = run_command(client, image, confinement, words, out=out.write, errors=errors.write)
    if status != 0:
        lines = errors.getvalue().decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"{image.name}: {shlex.join(words)}: status {status}: {lines[-1]}")
    return json.loads(out.getvalue())
