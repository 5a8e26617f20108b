"""The GPUs of this machine, and which of them are free for a point."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.point.spec import PointSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

_TIMEOUT_S = 20
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
    """Return the GPUs that the driver shows, or those of them that CUDA_VISIBLE_DEVICES names; none
    where there is no driver.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=uuid,name,memory.total,memory.used,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [parse_gpu(line) for line in done.stdout.splitlines()]
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(gpus: Sequence[Gpu | None], setting: str | None) -> list[Gpu]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names, in its order; all without one.

    gpus: in the driver's order, None for what could not be read.

    As in CUDA, a number counts from 0, a name is a UUID or the beginning of one, and what names no
    GPU ends the list. Numbers are the driver's, CUDA's own with CUDA_DEVICE_ORDER=PCI_BUS_ID: they
    differ only where the GPUs of a machine do.
    """
    if setting is None:
        return [gpu for gpu in gpus if gpu is not None]
    chosen: list[Gpu] = []
    for word in map(str.strip, setting.split(",")):
        found = _named(gpus, word)
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def _named(gpus: Sequence[Gpu | None], word: str) -> list[Gpu]:
    if word.isdecimal():
        return [gpu for gpu in gpus[int(word) : int(word) + 1] if gpu is not None]
    return [gpu for gpu in gpus if gpu is not None and word and gpu.uuid.startswith(word)]


def docker_gives_gpus(client: DockerClient) -> bool:
    """Whether Docker can hand GPUs to containers, as far as can be seen without doing it."""
    information = client.info()
    devices = [device.get("ID", "") for device in information.get("DiscoveredDevices") or ()]
    return (
        "nvidia" in (information.get("Runtimes") or {})
        or any("nvidia" in device for device in devices)
        or any(shutil.which(program) for program in _HOOKS)
    )


def parse_gpu(line: str) -> Gpu | None:
    """Read one line of nvidia-smi's table; None if it is not one."""
    words = [word.strip() for word in line.split(",")]
    if len(words) != 5 or not (words[2].isdecimal() and words[3].isdecimal()):
        return None
    uuid, name, total, used, driver = words
    return Gpu(uuid, name, int(total) * _MIB, int(used) * _MIB, driver)


def gpus_needed(spec: PointSpec) -> int:
    """GPUs of a point: its tensor-parallel degree where it is measured on GPUs, else none."""
    return (spec.tensor_parallel or 1) if spec.backend == "cuda" else 0


class GpuLedger:
    """Which GPUs are taken by points of this run; those that others use are never given out."""

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        everything = list(gpus)
        self._free = [gpu for gpu in everything if gpu.idle]
        self.total = len(self._free)
        self.busy_elsewhere = len(everything) - self.total

    def check(self, spec: PointSpec) -> None:
        """Raise UserError if the point could never get its GPUs."""
        needed = gpus_needed(spec)
        if needed > self.total:
            others = (
                f" ({self.busy_elsewhere} more in use by others)" if self.busy_elsewhere else ""
            )
            raise UserError(
                f"{spec.slug} needs {needed} GPUs and {self.total} are free{others}: lower "
                "--tensor-parallel, free some, or use --backend sim"
            )

    def has(self, count: int) -> bool:
        """Whether so many are free now."""
        return count <= len(self._free)

    def take(self, count: int) -> tuple[Gpu, ...]:
        """Take free GPUs; the caller has asked `has`."""
        assert self.has(count), f"{count} GPUs asked for, {len(self._free)} free"
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def give_back(self, gpus: Iterable[Gpu]) -> None:
        """Return GPUs that were taken."""
        self._free.extend(gpus)
