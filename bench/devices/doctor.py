"""Checks of the machine: each is a function that returns what it found and the remedy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import bench
from bench.docker.checks import Finding, Level, container_findings
from bench.files import check_writable
from bench.machine import git_state, memory_bytes, package_version, usable_cores
from engines import compiled
from engines.core.config import GIB
from engines.core.errors import UserError
from engines.execution.device import cpu_model
from engines.kernels.driver import find_driver, require_cuda

DISTRIBUTION = "astra-artifact"
MIN_PYTHON = (3, 11)
MIN_RAY = "2.40"
# One simulated point stays under 1 GiB; all results of all figures under 1 GiB.
MEMORY_PER_JOB_BYTES = GIB
DISK_WANTED_BYTES = 2 * GIB


def examine(artifacts: Path) -> list[Finding]:
    """Run every check; `artifacts` is where results would be written. Writes nothing."""
    return [
        check_python(),
        check_engine(),
        *check_packages(),
        check_cores(usable_cores()),
        check_memory(memory_bytes()),
        check_disk(artifacts),
        check_write_access(artifacts),
        check_git(),
        check_ray(),
        check_torch(),
        *container_findings(),
    ]


def check_python(running: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """The interpreter is recent enough."""
    found = ".".join(map(str, running))
    if running[:2] < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        return Finding("Python", Level.FAIL, found, f"install Python {wanted} or newer")
    return Finding("Python", Level.OK, found)


def check_engine() -> Finding:
    """Whether the engine runs compiled; its results are the same either way."""
    if compiled.in_use():
        return Finding("engine", Level.OK, "compiled")
    if compiled.is_stale():
        remedy = "make install compiles it again"
        return Finding("engine", Level.OK, "plain Python: edited since it was compiled", remedy)
    remedy = "faster compiled: make install, with a C compiler and Python's headers"
    return Finding("engine", Level.OK, "plain Python", remedy)


def check_packages(distribution: str = DISTRIBUTION) -> Iterator[Finding]:
    """Every required package is installed in a version that serves."""
    try:
        wanted = requires(distribution) or []
    except PackageNotFoundError:
        yield Finding("packages", Level.FAIL, f"{distribution} is not installed", "make install")
        return
    for requirement in wanted:
        if ";" not in requirement:  # the others belong to optional extras
            name, _, least = requirement.partition(">=")
            yield check_package(name.strip(), found=package_version(name.strip()), least=least)


def check_package(name: str, *, found: str | None, least: str) -> Finding:
    """One package is there, in version `least` or newer."""
    remedy = f"pip install '{name}>={least}'" if least else f"pip install {name}"
    if found is None:
        return Finding(name, Level.FAIL, "not installed", remedy)
    if _numbers(found) < _numbers(least):
        return Finding(name, Level.FAIL, found, remedy)
    return Finding(name, Level.OK, found)


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.4.0rc1 is (2, 4, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def check_cores(cores: int) -> Finding:
    """More than one core shortens everything."""
    found = f"{cores} x {cpu_model() or 'unknown processor'}"
    if cores < 2:
        return Finding("cores", Level.WARN, found, "points run one at a time: allow more cores")
    return Finding("cores", Level.OK, found)


def check_memory(total_bytes: int | None) -> Finding:
    """There is memory for one point on each core."""
    if total_bytes is None:
        return Finding("memory", Level.WARN, "unknown", "use --jobs 1 if points are killed")
    found = f"{total_bytes / GIB:.1f} GiB"
    jobs = total_bytes // MEMORY_PER_JOB_BYTES
    if jobs < usable_cores():
        return Finding("memory", Level.WARN, found, f"use --jobs {max(1, jobs)}")
    return Finding("memory", Level.OK, found)


def check_disk(artifacts: Path) -> Finding:
    """There is room for results."""
    existing = next(p for p in (artifacts.absolute(), *artifacts.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / GIB:.1f} GiB free at {existing}"
    if free < DISK_WANTED_BYTES:
        wanted = f"{DISK_WANTED_BYTES / GIB:.0f} GiB"
        return Finding("disk", Level.WARN, found, f"free up to {wanted}, or use --artifacts")
    return Finding("disk", Level.OK, found)


def check_write_access(artifacts: Path) -> Finding:
    """Results can be written."""
    try:
        check_writable(artifacts)
    except UserError as error:
        return Finding("artifacts", Level.FAIL, str(error), "use --artifacts with another place")
    return Finding("artifacts", Level.OK, f"{artifacts} can be written")


def check_git() -> Finding:
    """The commit can be recorded with every result."""
    state = git_state()
    if state["git_commit"] is None:
        root = Path(bench.__file__).parents[1]
        if (root / ".git").exists() and root.stat().st_uid != os.getuid():
            remedy = f"git config --global --add safe.directory {shlex.quote(str(root))}"
            return Finding("git", Level.WARN, f"{root} is another user's: git refuses it", remedy)
        remedy = "results will not name their commit; run from a clone"
        return Finding("git", Level.WARN, "no checkout found", remedy)
    dirty = " with local changes" if state["git_dirty"] else ""
    return Finding("git", Level.OK, f"commit {state['git_commit'][:12]}{dirty}")


def check_ray(found: str | None = package_version("ray")) -> Finding:
    """Ray is needed for clusters and models on several devices alone."""
    remedy = f"pip install 'ray>={MIN_RAY}' (only --ray and --tensor-parallel need it)"
    if found is None:
        return Finding("Ray", Level.OK, "not installed (optional)", remedy)
    if _numbers(found) < _numbers(MIN_RAY):
        return Finding("Ray", Level.WARN, found, remedy)
    return Finding("Ray", Level.OK, found)


def check_torch(found: str | None = package_version("torch")) -> Finding:
    """PyTorch, which only models need, sees the GPU where a driver is installed."""
    if found is None:
        remedy = "make install BACKEND=cpu (only models need it)"
        return Finding("PyTorch", Level.OK, "not installed (optional)", remedy)
    if find_driver() is None:
        return Finding("PyTorch", Level.OK, f"{found} (no NVIDIA driver: models run on the CPU)")
    try:
        require_cuda()
    except UserError as error:
        why, _, remedy = str(error).rpartition(": ")
        return Finding("PyTorch", Level.WARN, why, remedy)
    return Finding("PyTorch", Level.OK, f"{found} sees the GPU")
