"""Facts about this machine and checkout, for results to name. What cannot be found out is None."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engines.core.errors import UserError

_COMMAND_TIMEOUT_S = 20  # nvidia-smi wakes a driver that sleeps


def git_state() -> dict[str, Any]:
    """Commit and whether the checkout differs from it; both null outside a git checkout.

    Results are not sources: those that a run has written do not make the next one's differ.
    """
    commit = output("git", "rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": None, "git_dirty": None}
    status = output(
        "git", "--no-optional-locks", "status", "--porcelain", "--", ":/", ":(top,exclude)artifacts"
    )
    return {"git_commit": commit, "git_dirty": None if status is None else status != ""}


def tracked_files(root: Path) -> list[str]:
    """The files that git tracks below `root` and that are there; raises UserError without git."""
    listed = output("git", "-C", str(root), "ls-files", "-z")
    if listed is None:
        raise UserError(f"{root} is no git checkout: name one, or clone the repository")
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def package_version(name: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def operating_system() -> str:
    """The distribution where there is one, else the system's name and release."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs, none where the driver is not installed."""
    names = output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []


def output(*command: str) -> str | None:
    """Standard output of a command run beside the sources, or None if it cannot tell."""
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
