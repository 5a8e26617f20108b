"""Containers that run one command: confined, offline, and gone when their launcher is gone."""

from __future__ import annotations

import json
import os
import posixpath
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.daemon import refusal
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.machine import git_state
from bench.results.provenance import GIVEN
from engines.core.config import GIB
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

LAUNCHER = "sosp23.launcher"  # label of every container; its value is the process that started it
WORK = "/sosp23"
ARTIFACTS = f"{WORK}/artifacts"
_TMP = "/tmp"
_TMPFS_BYTES = 2 * GIB
_PROCESSES = 4096
_THIS_PROCESS = uuid.uuid4().hex
_STREAMS = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
_STDOUT = 1
_NO_GPUS = ("could not select device driver", "no known GPU vendor")  # Docker to 28, and from 29
# Standard input up to an empty line is the command's. It stays open after that: Docker closes it
# when the launcher is gone, however it went, and then the command ends.
ENTRY = """
exec 3<&0
sed '/^$/q' <&3 >/tmp/.input
"$@" </tmp/.input &
command=$!
{ cat <&3 >/dev/null; kill -KILL $command; } &
wait $command
"""


@dataclass(frozen=True)
class Confinement:
    """What a container may see and use: results to write, all else read-only or not at all.

    `inputs` are files and folders to read, by their place in the container.
    """

    artifacts: Path
    inputs: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    user: str = field(default_factory=lambda: f"{os.getuid()}:{os.getgid()}")

    @property
    def shared_memory_bytes(self) -> int:
        """Room in /dev/shm: what NCCL and Ray need for GPUs that work together."""
        return max(1, 4 * len(self.gpus)) * GIB

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for the SDK's `containers.create`."""
        from docker.types import DeviceRequest, Mount, Ulimit

        mounts = [Mount(ARTIFACTS, str(self.artifacts.absolute()), type="bind")]
        mounts += [Mount(t, s, type="bind", read_only=True) for t, s in self.inputs.items()]
        found: dict[str, Any] = {
            "user": self.user,
            "working_dir": WORK,
            "mounts": mounts,
            "network_mode": "none",
            "read_only": True,
            "tmpfs": {_TMP: f"rw,nosuid,nodev,mode=1777,size={_TMPFS_BYTES}"},
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
            "tmpfs_bytes": _TMPFS_BYTES,
            "gpus": [gpu.name for gpu in self.gpus],
            "inputs": sorted(self.inputs),
        }


def run_command(
    client: DockerClient,
    image: Image,
    confinement: Confinement,
    words: Sequence[str],
    *,
    out: Callable[[bytes], object],
    errors: Callable[[bytes], object],
    given: bytes = b"",
) -> int:
    """Run `words` to the end, with `given` as standard input; returns the exit status.

    `out` and `errors` are called with what it prints, in pieces as they come. The container is
    removed in any case. Raises UserError if it does not start.
    """
    import docker
    from docker.utils.socket import frames_iter

    record = confinement.record(image, client.version().get("Version"))
    name = f"sosp23-{uuid.uuid4().hex}"
    confinement.artifacts.mkdir(parents=True, exist_ok=True)  # as us, not as the daemon
    try:
        try:
            container = client.containers.create(
                image.image_id,
                ["sh", "-c", ENTRY, "sh", *words],
                name=name,
                stdin_open=True,
                labels={LAUNCHER: _THIS_PROCESS},
                environment=_environment(record),
                **confinement.options(),
            )
            stream = container.attach_socket(params=_STREAMS)
            container.start()
        except docker.errors.APIError as error:
            raise UserError(_explain(refusal(error), image.name)) from error
        connection = getattr(stream, "_sock", stream)  # the SDK's stream cannot be written
        with connection, stream:
            with suppress(OSError):  # it has ended already: its status says more
                connection.sendall(given + b"\n")
            for number, content in frames_iter(stream, tty=False):
                (out if number == _STDOUT else errors)(content)
        return int(container.wait()["StatusCode"])
    finally:
        with suppress(docker.errors.DockerException, OSError):
            client.api.remove_container(name, force=True)


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    """A home to write to, the only network interface, and what results are to record."""
    return {
        "HOME": _TMP,
        "USER": "bench",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
        GIVEN: json.dumps({**git_state(), "container": record}),
    }


def _explain(reason: str, image: str) -> str:
    if any(words in reason for words in _NO_GPUS):
        return (
            f"Docker cannot give a GPU to {image}: install the NVIDIA container toolkit and run "
            "`sudo nvidia-ctk runtime configure --runtime=docker`, or use --runner local"
        )
    return f"a container of {image} does not start: {reason}"


def remove_ours(client: DockerClient) -> None:
    """Kill and remove all containers of this process; a daemon that does not answer is no error."""
    import docker

    label = f"{LAUNCHER}={_THIS_PROCESS}"
    with suppress(docker.errors.DockerException, OSError):
        for container in client.containers.list(
            all=True, filters={"label": label}, ignore_removed=True
        ):
            container.remove(force=True)


def remove_ended(client: DockerClient, *, older_than: str = "1m") -> None:
    """Remove ended containers that a killed launcher could not remove itself."""
    client.containers.prune(filters={"label": LAUNCHER, "until": older_than})


def input_mounts(paths: Sequence[str]) -> dict[str, str]:
    """Return the mounts for those of the paths that exist: place in the container to source.

    A folder comes with what its links lead to, such as a checkpoint in Hugging Face's cache.
    """
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            continue
        target = posixpath.normpath(posixpath.join(WORK, path))
        found[target] = str(path.resolve())
        for link in [inner for inner in path.glob("*") if inner.is_symlink() and inner.exists()]:
            place = posixpath.normpath(posixpath.join(target, link.readlink()))
            if not place.startswith(f"{target}/"):
                found[place] = str(link.resolve())
    return found
