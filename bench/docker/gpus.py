"""The GPUs of this machine that containers may use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.machine import output

if TYPE_CHECKING:
    from docker import DockerClient

_MIB = 1 << 20
# A GPU with more than this in use serves somebody else; a driver alone holds less.
_IDLE_BYTES = 1024 * _MIB
# The toolkit's programs: where they are, Docker gives GPUs without having been told of a runtime.
_HOOKS = ("nvidia-container-runtime-hook", "nvidia-cdi-hook")


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi shows it."""

    uuid: str
    name: str
    memory_bytes: int
    used_bytes: int
    driver: str

    @property
    def idle(self) -> bool:
        """Whether nobody else uses it."""
        return self.used_bytes <= _IDLE_BYTES


def find_gpus() -> list[Gpu]:
    """Return the GPUs that nvidia-smi shows and CUDA_VISIBLE_DEVICES does not hide, if any."""
    query = "--query-gpu=uuid,name,memory.total,memory.used,driver_version"
    table = output("nvidia-smi", query, "--format=csv,noheader,nounits") or ""
    gpus = [parse_gpu(line) for line in table.splitlines()]
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpu(line: str) -> Gpu | None:
    """Read one line of nvidia-smi's table; None if it is not one."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != 5 or not (words[2].isdecimal() and words[3].isdecimal()):
        return None
    uuid, name, total, used, driver = words
    return Gpu(uuid, name, int(total) * _MIB, int(used) * _MIB, driver)


def visible(gpus: Sequence[Gpu | None], setting: str | None) -> list[Gpu]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order; all without one.

    gpus: in the driver's order, None for what could not be read. As in CUDA, a number counts from
    0, a name is a UUID or the beginning of one, and what names no GPU ends the list.
    """
    if setting is None:
        return [gpu for gpu in gpus if gpu is not None]
    chosen: list[Gpu] = []
    for word in map(str.strip, setting.split(",")):
        found = [
            gpu
            for index, gpu in enumerate(gpus)
            if gpu and word and (word == str(index) or gpu.uuid.startswith(word))
        ]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def settle_device(name: str) -> str:
    """Return the device of images, "cuda" or "cpu"; `auto` is what this machine has."""
    return ("cuda" if find_gpus() else "cpu") if name == "auto" else name


def docker_gives_gpus(client: DockerClient) -> bool:
    """Whether Docker can hand GPUs to containers, as far as can be seen without doing it."""
    information = client.info()
    devices = [device.get("ID", "") for device in information.get("DiscoveredDevices") or ()]
    return (
        "nvidia" in (information.get("Runtimes") or {})
        or any("nvidia" in device for device in devices)
        or any(shutil.which(program) for program in _HOOKS)
    )
