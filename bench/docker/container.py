"""What a container may do and see, as options of Docker and as a record for provenance."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.point.spec import PointSpec

GIB = 1 << 30
HOME = "/tmp"
WORK = "/sosp23"
ARTIFACTS = "/artifacts"
_PROCESSES = 4096
# Files that a spec may name; they are mounted read-only where the same name leads to them.
_INPUTS = ("trace", "lengths", "device_profile", "model")


@dataclass(frozen=True)
class Confinement:
    """A container's limits: results mounted, all else read-only; no network and no privileges.

    `results_at` is where the container sees the results. `inputs` are files that points name, by
    their place in the container. Sizes are in bytes.
    """

    results: Path
    results_at: str = ARTIFACTS
    inputs: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")
    tmpfs_bytes: int = 2 * GIB

    @property
    def shared_memory_bytes(self) -> int:
        """Room in /dev/shm: what NCCL and Ray need for GPUs that work together."""
        return max(1, 4 * len(self.gpus)) * GIB

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the SDK's `containers.create`."""
        from docker.types import DeviceRequest, Mount, Ulimit

        mounts = [Mount(self.results_at, str(self.results), type="bind")]
        mounts += [
            Mount(target, source, type="bind", read_only=True)
            for target, source in self.inputs.items()
        ]
        found: dict[str, Any] = {
            "user": self.user,
            "working_dir": WORK,
            "environment": self.environment(),
            "mounts": mounts,
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {HOME: f"rw,nosuid,nodev,mode=1777,size={self.tmpfs_bytes}"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "shm_size": self.shared_memory_bytes,
            "pids_limit": _PROCESSES,
        }
        if self.gpus:
            ids = [gpu.uuid for gpu in self.gpus]
            found["device_requests"] = [DeviceRequest(device_ids=ids, capabilities=[["gpu"]])]
            found["ulimits"] = [Ulimit(name="memlock", soft=-1, hard=-1)]  # for pinned memory
        return found

    def environment(self) -> dict[str, str]:
        """A home that can be written, and the one network interface there is, for NCCL and Gloo."""
        return {
            "HOME": HOME,
            "USER": "bench",
            "NCCL_SOCKET_IFNAME": "lo",
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def record(self, image: Image, docker: str | None) -> dict[str, Any]:
        """Return what a result's provenance says of the container, its image and Docker."""
        return {
            "image": image.name,
            "digest": image.image_id,
            "docker": docker,
            "user": self.user,
            "network": "none",
            "read_only": True,
            "capabilities": [],
            "no_new_privileges": True,
            "shared_memory_bytes": self.shared_memory_bytes,
            "tmpfs_bytes": self.tmpfs_bytes,
            "gpus": [gpu.name for gpu in self.gpus],
            "inputs": sorted(self.inputs),
        }


def input_mounts(specs: Sequence[PointSpec]) -> dict[str, str]:
    """Return the existing files and folders that specs name: place in the container to source."""
    found = {}
    for spec in specs:
        for name in _INPUTS:
            value = getattr(spec, name)
            if value is not None and Path(value).exists():
                target = posixpath.normpath(posixpath.join(WORK, value))
                found[target] = str(Path(value).resolve())
                found |= _linked(Path(value), target)
    return found


def _linked(folder: Path, target: str) -> dict[str, str]:
    """What links in a folder lead to outside, such as a checkpoint in Hugging Face's cache."""
    found = {
        posixpath.normpath(posixpath.join(target, path.readlink())): str(path.resolve())
        for path in folder.glob("*")
        if path.is_symlink() and path.exists()
    }
    return {place: source for place, source in found.items() if not place.startswith(f"{target}/")}
