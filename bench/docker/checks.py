"""What `bench doctor` says of containers: the daemon, GPUs in containers, drivers, images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bench.docker.daemon import connect, trouble
from bench.docker.gpus import Gpu, docker_gives_gpus, find_gpus
from bench.docker.images import SYSTEMS, Recipe, find_image, parse_build_args, state_of
from engines.core.config import GIB
from engines.core.errors import UserError
from engines.kernels.driver import find_driver, least_driver

if TYPE_CHECKING:
    from docker import DockerClient

_IMAGES_CUDA = "13.0"
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


def container_findings() -> Iterator[Finding]:
    """Yield a finding for each thing that containers need; nothing else needs any of them."""
    gpus = find_gpus()
    driver = gpus[0].driver if gpus else find_driver()
    yield _check_gpus(gpus, driver)
    if driver is not None:
        yield _check_driver(driver)
    if shutil.which("dockerd") is None and shutil.which("docker") is None:
        yield Finding("Docker", Level.OK, "not installed (optional)")
        return
    try:
        with closing(connect(timeout_s=_TIMEOUT_S)) as client:
            yield Finding("Docker", Level.OK, f"daemon {client.version().get('Version')}")
            yield _check_docker_disk(client)
            if gpus:
                yield _check_nvidia_runtime(client)
            yield from _check_images(client, device="cuda" if gpus else "cpu")
    except Exception as error:
        if (reason := trouble(error)) is None:
            raise
        found, _, remedy = reason.rpartition(": ")
        yield Finding("Docker", Level.WARN, found, f"{remedy} (only containers need it)")


def _check_gpus(gpus: list[Gpu], driver: str | None) -> Finding:
    if not gpus and (driver or shutil.which("nvidia-smi")):
        return Finding("GPU", Level.WARN, "none that nvidia-smi shows", "nvidia-smi says why")
    if not gpus:
        return Finding("GPU", Level.OK, "none: figures are simulated")
    names = [f"{gpu.name} {gpu.memory_bytes / GIB:.0f} GiB" for gpu in gpus]
    counted = ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(names))
    if busy := sum(not gpu.idle for gpu in gpus):
        return Finding("GPU", Level.WARN, f"{counted}, {busy} in use", "see nvidia-smi; free them")
    return Finding("GPU", Level.OK, counted)


def _check_driver(found: str) -> Finding:
    if needed := least_driver(_IMAGES_CUDA, found):
        remedy = f"install driver {needed} or newer: the images' CUDA {_IMAGES_CUDA} needs it"
        return Finding("driver", Level.WARN, found, remedy)
    return Finding("driver", Level.OK, f"{found} (serves the images' CUDA {_IMAGES_CUDA})")


def _check_docker_disk(client: DockerClient) -> Finding:
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


def _check_nvidia_runtime(client: DockerClient) -> Finding:
    if docker_gives_gpus(client):
        return Finding("NVIDIA runtime", Level.OK, "known to Docker")
    remedy = (
        "install the NVIDIA container toolkit, then: sudo nvidia-ctk runtime configure "
        "--runtime=docker && sudo systemctl restart docker"
    )
    return Finding("NVIDIA runtime", Level.WARN, "unknown to Docker", remedy)


def _check_images(client: DockerClient, *, device: str) -> Iterator[Finding]:
    """Each system's image is there and fresh; the first run that needs it builds it otherwise."""
    try:
        build_args = parse_build_args(os.environ.get("BENCH_BUILD_ARGS", "").split())
        recipes = [Recipe(system, device, build_args) for system in SYSTEMS]
        states = [state_of(find_image(client, recipe), recipe) for recipe in recipes]
    except UserError as error:
        found, _, remedy = str(error).partition(": ")
        yield Finding("images", Level.WARN, found, remedy)
        return
    for recipe, state in zip(recipes, states, strict=True):
        remedy = "" if state == "fresh" else "make images (or let the first run build it)"
        yield Finding(recipe.name, Level.OK, state, remedy)
