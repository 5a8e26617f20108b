"""Where a result comes from: sources, inputs, machine, and the command that makes it again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import engines
from bench.point.spec import PointSpec

# What decides a result besides the engines; drawing, driving and reporting do not.
_BENCH_SOURCES = (
    *("run.py", "metrics.py", "replicas.py", "backends.py", "ft_library.py", "point.py"),
    "workloads",
)
INPUT_FILES = ("trace", "lengths", "device_profile")  # settings that may name a file
# Sources of the kernels, which an installed package carries and a checkout has elsewhere.
_CARRIED = Path("kernels", "csrc")
_PACKAGES = ("numpy", "pyarrow", "torch")
_COMMAND_TIMEOUT_S = 10
# Variable with a JSON object that replaces parts of the environment: what the launcher of a
# container knows and the inside does not.
GIVEN = "BENCH_PROVENANCE"


def source_hash() -> str:
    """SHA-256 over the files of `engines` and of the parts of `bench` that decide results."""
    digest = hashlib.sha256()
    for name, path in sorted(_source_files()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _source_files() -> Iterator[tuple[str, Path]]:
    packages = {
        "engines": Path(engines.__file__).parent,
        **{f"bench/{name}": Path(__file__).parent / name for name in _BENCH_SOURCES},
    }
    for prefix, top in packages.items():
        for path in [top] if top.is_file() else top.rglob("*"):
            inner = path.relative_to(top)
            hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
            hidden = hidden or inner.is_relative_to(_CARRIED)
            if path.is_file() and not hidden and path.suffix not in (".pyc", ".so"):
                yield f"{prefix}/{inner.as_posix()}", path


def hash_inputs(spec: PointSpec) -> dict[str, str]:
    """SHA-256 of each input file that the spec names and that is there, by field."""
    found = {}
    for field in INPUT_FILES:
        value = getattr(spec, field)
        if value is not None and Path(value).is_file():
            found[field] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return found


def command_of(spec: PointSpec) -> str:
    """The `bench run` command that makes the point again, every setting spelt out."""
    words = ["bench", "run"]
    for name, value in spec.to_dict().items():
        option = "swap-space" if name == "swap_space_gib" else name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        elif name == "window" and value is not None:
            words += [f"--{option}", f"{value[0]!r}:{value[1]!r}"]
        elif value is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def environment(*, source: str | None = None, gpu: bool = False) -> dict[str, Any]:
    """What all points of one run share. Never fails: what cannot be found out is null.

    `source` is the hash of the sources where it is known already. `gpu` asks for its name.
    """
    found: dict[str, Any] = {
        "source_sha256": source or source_hash(),
        **git_state(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }
    if gpu:
        found["gpus"] = gpu_names()
    return {**found, **json.loads(os.environ.get(GIVEN, "{}"))}


def provenance_of(
    spec: PointSpec,
    *,
    shared: Mapping[str, Any],
    inputs: Mapping[str, Any],
    started: datetime,
    ended: datetime,
) -> dict[str, Any]:
    """The provenance of one point: the run's environment, its inputs, command and times (UTC)."""
    return {
        **shared,
        "input_files": hash_inputs(spec),
        "calibrated": inputs.get("device_profile", {}).get("calibrated", {}),
        "command": command_of(spec),
        "started": started.isoformat(timespec="milliseconds"),
        "ended": ended.isoformat(timespec="milliseconds"),
    }


def git_state() -> dict[str, Any]:
    """Commit and whether the checkout differs from it; both null outside a git checkout.

    Results are not sources: those that a run has written do not make the next one's differ.
    """
    commit = _output("git", "rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": None, "git_dirty": None}
    status = _output("git", "status", "--porcelain", "--", ":/", ":(top,exclude)artifacts")
    return {"git_commit": commit, "git_dirty": None if status is None else status != ""}


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


def cpu_model() -> str | None:
    """The processor's name as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine() or None


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs, none where the driver is not installed."""
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []


def _output(*command: str) -> str | None:
    """Standard output of a command run beside the sources, or None if it cannot tell."""
    if shutil.which(command[0]) is None:
        return None
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
