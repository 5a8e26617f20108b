"""Run one command in a system's image, confined like a point, its output passed through."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from bench.launch.container import Confinement
from bench.launch.daemon import LAUNCHER, refusal
from bench.launch.images import Image
from bench.launch.owner import launcher_name, remove
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient


def run_command(
    client: DockerClient,
    image: Image,
    words: Sequence[str],
    confinement: Confinement,
    *,
    out: BinaryIO | None = None,
    errors: BinaryIO | None = None,
) -> int:
    """Run `words` to the end and return their exit status; the container is removed in any case.

    Output goes to `out` and `errors` (default: the standard streams). Raises UserError if the
    container does not start.
    """
    import docker

    out, errors = out or sys.stdout.buffer, errors or sys.stderr.buffer
    try:
        container = client.containers.create(
            image.image_id,
            list(words),
            labels={LAUNCHER: launcher_name()},
            **confinement.options(),
        )
    except docker.errors.APIError as error:
        raise UserError(f"no container of {image.name}: {refusal(error)}") from error
    try:
        streams = client.api.attach(container.id, stream=True, demux=True)
        container.start()
        for to_out, to_errors in streams:
            for content, target in ((to_out, out), (to_errors, errors)):
                if content:
                    target.write(content)
                    target.flush()
        status: int = container.wait()["StatusCode"]
        return status
    except docker.errors.APIError as error:
        raise UserError(f"a container of {image.name} failed: {refusal(error)}") from error
    finally:
        remove(container)
