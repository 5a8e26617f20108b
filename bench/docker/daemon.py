"""Reaching the Docker daemon, and what its refusals mean to a user."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

TIMEOUT_S = 60  # for one answer; builds and commands are followed over streams, without a limit
_DEFAULT_HOST = "unix:///var/run/docker.sock"


def connect(*, timeout_s: int = TIMEOUT_S) -> DockerClient:
    """Return a client of a daemon that answers; raises UserError with the reason and the remedy."""
    try:
        import docker
    except ModuleNotFoundError as error:
        raise UserError(
            "containers need the Docker SDK for Python: pip install 'docker>=7.1' (make install "
            "brings it), or use --runner local"
        ) from error
    try:
        _try_socket(os.environ.get("DOCKER_HOST") or _DEFAULT_HOST)
        client = docker.from_env(timeout=timeout_s)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise UserError(explain(error)) from error
    return client


def _try_socket(host: str) -> None:
    """Connect to a local daemon once; the SDK leaks the socket of a refused connection."""
    scheme, _, path = host.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as tried:
            tried.connect(path)


def explain(error: BaseException) -> str:
    """Say in one line why the daemon did not answer, with the remedy."""
    codes = {getattr(cause, "errno", None) for cause in _causes(error)}
    if codes & {errno.EACCES, errno.EPERM}:
        return (
            "no permission on Docker's socket: join the group 'docker' (sudo usermod -aG docker "
            "$USER, then log in again), or use --runner local"
        )
    if codes & {errno.ENOENT, errno.ECONNREFUSED}:
        return (
            "no Docker daemon answers: start it (sudo systemctl start docker), set DOCKER_HOST, "
            "or use --runner local"
        )
    return f"Docker does not answer: {refusal(error)}: check `docker info`, or use --runner local"


def trouble(error: BaseException) -> str | None:
    """Describe in one line an error of ours or of Docker's SDK; None for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if "docker" not in sys.modules:
        return None
    import docker
    import requests
    import urllib3

    if isinstance(error, docker.errors.APIError):
        return f"Docker refuses: {refusal(error)}: check `docker info`"
    of_the_sdk = (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
    )
    return explain(error) if isinstance(error, of_the_sdk) else None


def refusal(error: Any) -> str:
    """The daemon's own explanation of an error, in one line."""
    return " ".join(str(getattr(error, "explanation", None) or error).split())


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it, through the layers of the SDK and of its HTTP client."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
