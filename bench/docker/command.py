"""Run one command in a system's image, confined like a point, its output passed through."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from bench.docker.attached import Attached
from bench.docker.container import Confinement
from bench.docker.images import Image
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

_LEASH = ("python3", "-m", "bench.docker.leash")
_STDOUT = 1
_TAIL = 2000  # bytes of standard error to keep for a message


def run_command(
    client: DockerClient,
    image: Image,
    words: Sequence[str],
    confinement: Confinement,
    *,
    out: Any = None,
    errors: Any = None,
) -> int:
    """Run `words` to the end and return their exit status; the container is removed in any case.

    Output goes to `out` and `errors`, binary files (default: the standard streams). Raises
    UserError if the container does not start, or ends without a status.
    """
    from docker.utils.socket import frames_iter

    out, errors = out or sys.stdout.buffer, errors or sys.stderr.buffer
    attached = Attached(client, image, (*_LEASH, *words), confinement)
    try:
        for stream, content in frames_iter(attached.stream, tty=False):
            target = out if stream == _STDOUT else errors
            target.write(content)
            target.flush()
        status = attached.status
    finally:
        attached.stop()
    if status is None:
        raise UserError(f"a container of {image.name} ended without a word: check the daemon")
    return status


def ask_command(
    client: DockerClient,
    image: Image,
    words: Sequence[str],
    confinement: Confinement,
    *,
    show: bool = False,
) -> bytes:
    """Run `words` to the end and return what they print; raises UserError if they fail.

    With `show`, what they say on standard error appears on ours.
    """
    out, errors = io.BytesIO(), _Tail(sys.stderr.buffer if show else None)
    status = run_command(client, image, words, confinement, out=out, errors=errors)
    if status != 0:
        reason = errors.last_line.removeprefix("Error: ")
        raise UserError(f"{image.name}: {shlex.join(words)}: status {status}: {reason}")
    return out.getvalue()


class _Tail:
    """Keeps the end of what is written, and passes all of it on if it is to be shown."""

    def __init__(self, shown: BinaryIO | None) -> None:
        self._shown = shown
        self._kept = b""

    def write(self, content: bytes) -> None:
        self._kept = (self._kept + content)[-_TAIL:]
        if self._shown is not None:
            self._shown.write(content)

    def flush(self) -> None:
        if self._shown is not None:
            self._shown.flush()

    @property
    def last_line(self) -> str:
        lines = self._kept.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
