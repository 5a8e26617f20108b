"""What `bench doctor` says of containers: the daemon, GPUs in containers, drivers, images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bench.docker.context import SYSTEMS
from bench.docker.daemon import NoDaemonError, connect, trouble
from bench.docker.gpus import Gpu, docker_gives_gpus, find_gpus
from bench.docker.images import Images, ImageState, build_args_of_environment
from engines.core.config import GIB
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

# CUDA 13.0, which the images are made with, needs a driver of this branch or newer.
MIN_DRIVER = (580, 65)
_DISK_PER_IMAGE = 15 * GIB  # of a GPU image while it is built; they share most of it
_TIMEOUT_S = 5


class Level(StrEnum):
    """How bad it is: only FAIL keeps the simulation and its figures from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the table; `remedy` is empty where nothing need be done."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def container_findings(
    *,
    connect: Callable[..., DockerClient] = connect,
    find_gpus: Callable[[], list[Gpu]] = find_gpus,
) -> Iterator[Finding]:
    """Yield a line for each thing that containers need; none of them is needed without."""
    gpus = find_gpus()
    yield check_gpus(gpus)
    if gpus:
        yield check_driver(gpus)
    if shutil.which("dockerd") is None and shutil.which("docker") is None:
        yield Finding("Docker", Level.OK, "not installed (optional)")
        return
    try:
        client = connect(timeout_s=_TIMEOUT_S)
    except NoDaemonError as error:
        found, _, remedy = str(error).partition(": ")
        yield Finding("Docker", Level.WARN, found, f"{remedy} (only containers need it)")
        return
    with closing(client):
        try:
            yield from _findings_of_daemon(client, gpus)
        except Exception as error:
            if (reason := trouble(error)) is None:
                raise
            found, _, remedy = reason.rpartition(": ")
            yield Finding("Docker", Level.WARN, found, remedy)


def _findings_of_daemon(client: DockerClient, gpus: list[Gpu]) -> Iterator[Finding]:
    yield Finding("Docker", Level.OK, f"daemon {client.version().get('Version')}")
    yield check_docker_disk(client)
    if gpus:
        yield check_nvidia_runtime(client)
    yield from check_images(client, device="cuda" if gpus else "cpu")


def check_gpus(gpus: list[Gpu]) -> Finding:
    """GPUs are welcome and not needed; those that others use are told."""
    if not gpus and shutil.which("nvidia-smi"):
        return Finding("GPU", Level.WARN, "none that nvidia-smi shows", "nvidia-smi says why")
    if not gpus:
        return Finding("GPU", Level.OK, "none: figures are simulated")
    names = [f"{gpu.name} {gpu.memory_bytes / GIB:.0f} GiB" for gpu in gpus]
    counted = ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(names))
    busy = sum(not gpu.idle for gpu in gpus)
    if busy:
        return Finding("GPU", Level.WARN, f"{counted}, {busy} in use", "see nvidia-smi; free them")
    return Finding("GPU", Level.OK, counted)


def check_driver(gpus: list[Gpu]) -> Finding:
    """The driver is new enough for the images' CUDA."""
    found = gpus[0].driver
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < MIN_DRIVER:
        least = ".".join(map(str, MIN_DRIVER))
        remedy = f"install driver {least} or newer: the images' CUDA 13.0 needs it"
        return Finding("driver", Level.WARN, found, remedy)
    return Finding("driver", Level.OK, f"{found} (serves the images' CUDA 13.0)")


def check_docker_disk(client: DockerClient) -> Finding:
    """There is room for the images where the daemon keeps them."""
    place = client.info().get("DockerRootDir", "/var/lib/docker")
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return Finding("Docker disk", Level.OK, f"{place} is not readable from here")
    found = f"{free / GIB:.0f} GiB free at {place}"
    if free < _DISK_PER_IMAGE:
        remedy = f"free {_DISK_PER_IMAGE // GIB} GiB to build images: docker system prune"
        return Finding("Docker disk", Level.WARN, found, remedy)
    return Finding("Docker disk", Level.OK, found)


def check_nvidia_runtime(client: DockerClient) -> Finding:
    """Docker can hand GPUs to containers."""
    if docker_gives_gpus(client):
        return Finding("NVIDIA runtime", Level.OK, "known to Docker")
    return Finding(
        "NVIDIA runtime",
        Level.WARN,
        "unknown to Docker",
        "install the NVIDIA container toolkit, then: sudo nvidia-ctk runtime configure "
        "--runtime=docker && sudo systemctl restart docker",
    )


def check_images(client: DockerClient, *, device: str) -> Iterator[Finding]:
    """Each system's image is there and fresh; the launcher builds it otherwise."""
    try:
        images = Images(client, build_args=build_args_of_environment())
        recipes = [images.recipe(system, device) for system in SYSTEMS]
        states = [images.state(recipe) for recipe in recipes]
    except UserError as error:
        found, _, remedy = str(error).partition(": ")
        yield Finding("images", Level.WARN, found, remedy)
        return
    for recipe, state in zip(recipes, states, strict=True):
        remedy = "" if state is ImageState.FRESH else "make images (or let the first run build it)"
        yield Finding(recipe.name, Level.OK, state.value, remedy)
