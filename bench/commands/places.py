"""Where the points of a command run, and on which backend: settled once from its options."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.commands.backend import resolve_backend, tell_backend
from bench.commands.output import note
from bench.devices.contained import InContainer
from bench.devices.measured import Measurer
from bench.docker import daemon, gpus
from bench.point.spec import Backend
from bench.sweep.containers import Containers
from bench.sweep.local import LocalProcesses
from bench.sweep.place import Place
from bench.sweep.ray import RayCluster
from engines.core.errors import UserError

_CHECK_TIMEOUT_S = 5


@dataclass(frozen=True)
class Where:
    """What `place_options` and `--backend` stand for; `reason` if `auto` decided on the runner."""

    runner: str  # "docker" or "local"
    backend: Backend
    reason: str = ""
    jobs: int | None = None
    ray: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)

    def tell(self, asked: str) -> None:
        """Say on standard error where points run, on which backend, and why if `auto` decided."""
        if self.reason:
            note(f"runner {self.runner}: {self.reason}")
        tell_backend(asked, self.backend)

    def place(self) -> Place:
        """The place; raises UserError if it cannot be had."""
        if self.runner == "docker":
            return Containers(self.jobs, self.build_args)
        if self.ray is not None:
            cluster = RayCluster(self.ray, jobs=self.jobs)
            click.get_current_context().call_on_close(cluster.close)
            return cluster
        return LocalProcesses(jobs=self.jobs)

    def measurer(self, root: Path) -> Measurer:
        """What measures beside the points, in containers if points run in them."""
        if self.runner == "docker":
            return InContainer(root, note, self.build_args)
        return Measurer(root)


def settle(
    *,
    runner: str,
    backend: str,
    jobs: int | None = None,
    ray: str | None = None,
    build_arg: Mapping[str, str] | None = None,
    **_others: object,
) -> Where:
    """Decide on the runner and the backend; raises UserError for what excludes each other.

    Containers bring their own PyTorch: their backend does not depend on what is installed here.
    """
    reason = ""
    if ray is not None:
        if runner == "docker":
            raise UserError("a cluster runs points in its nodes' processes: omit --runner or --ray")
        runner = "local"
    elif runner == "auto":
        why_local = _why_local(backend)
        runner, reason = "local" if why_local else "docker", why_local or "Docker and GPUs are here"
    if runner == "docker" and backend == "auto":
        settled = Backend.CUDA if gpus.find_gpus() else Backend.SIM
    else:
        settled = resolve_backend(backend, here=runner == "local")
    return Where(runner, settled, reason, jobs, ray, build_arg or {})


def _why_local(backend: str) -> str:
    """The reason to do without containers, or nothing."""
    if backend in ("sim", "cpu"):
        return f"containers are for GPUs (--runner docker uses them with --backend {backend} too)"
    if not gpus.find_gpus():
        return "no GPU here"
    try:
        with closing(daemon.connect(timeout_s=_CHECK_TIMEOUT_S)) as client:
            can = gpus.docker_gives_gpus(client)
    except Exception as error:
        if (reason := daemon.trouble(error)) is None:
            raise
        return reason
    return "" if can else "Docker here gives no GPUs to containers (bench doctor: the remedy)"
