"""Whose a container is: launchers mark theirs, and a later one removes those of the dead."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bench.docker.daemon import LAUNCHER

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

_UNDER_WAY = 409  # the daemon's status for a container whose removal has begun already
_PATIENCE_S = 60  # with such a removal, which may fail, too
_AGAIN_S = 0.05
_ENDED = ("Z", "X")  # states of processes that Linux still lists


def launcher_name(pid: int | None = None) -> str:
    """Name a process of this machine so that no later process has the same name."""
    pid = os.getpid() if pid is None else pid
    return f"{socket.gethostname()}/{pid}/{_started(pid)}"


def is_alive(name: str) -> bool:
    """Whether the process of that name still runs; true where that cannot be known."""
    host, _, rest = name.partition("/")
    pid, _, _ = rest.partition("/")
    if host != socket.gethostname() or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, and alive
    return launcher_name(int(pid)) == name


def _started(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty where /proc does not tell.

    Empty too for one that has ended, whether its parent has noticed or not.
    """
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        state, *numbers = after_name.split()
        return "" if state in _ENDED else numbers[18]
    return ""


def sweep(client: DockerClient, note: Callable[[str], None]) -> None:
    """Remove the containers of launchers that are dead."""
    import docker

    orphans = 0
    for container in _labelled(client, LAUNCHER):
        if not is_alive(container.labels.get(LAUNCHER, "")):
            with suppress(docker.errors.APIError):  # going away by itself at this moment
                remove(container)
                orphans += 1
    if orphans:
        note(f"removed {orphans} containers that an earlier, interrupted run had left")


def remove_ours(client: DockerClient) -> None:
    """Remove all containers of this process, also one whose creation was interrupted.

    A daemon that no longer answers is no error: its containers end with their standard input.
    """
    import docker

    with suppress(docker.errors.DockerException, OSError):
        for container in _labelled(client, f"{LAUNCHER}={launcher_name()}"):
            remove(container)


def _labelled(client: DockerClient, label: str) -> list[Container]:
    """All containers of a label; one that goes away while they are listed is no error."""
    found: list[Container] = client.containers.list(
        all=True, filters={"label": label}, ignore_removed=True
    )
    return found


def remove(container: Container) -> None:
    """Kill and remove a container, and wait until it is gone; one that is gone is no error."""
    import docker

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            container.remove(force=True)
            return
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != _UNDER_WAY or time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_S)
