"""Where a result comes from: sources, inputs, machine, and the command that reproduces it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Container, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from bench.machine import (
    git_state,
    gpu_names,
    memory_bytes,
    operating_system,
    package_version,
    usable_cores,
)
from bench.point.spec import PointSpec
from bench.records import check
from bench.workloads.tables import read_input
from engines import compiled
from engines.core.errors import UserError
from engines.execution.device import cpu_model

_ROOT = Path(__file__).parents[2]
# Sources that affect a result; those for sweeps, plots and reports do not.
_DECISIVE = ("engines", "bench/point", "bench/workloads")
# Sources of the kernels as an installed package has them; a checkout has them elsewhere.
_CARRIED = Path("engines", "kernels", "csrc")
_PACKAGES = ("numpy", "pyarrow", "torch")
# Environment variable with a JSON object of facts that only the launcher of a container knows.
# They replace what `environment` finds out.
GIVEN = "BENCH_PROVENANCE"


class _Facts(TypedDict, total=False):
    """What the points of a run may share; what could not be found out is null."""

    git_commit: str | None
    git_dirty: bool | None
    python: str
    engine_compiled: bool
    packages: dict[str, str | None]
    os: str
    platform: str
    cpu: str | None
    cores: int
    memory_bytes: int | None
    gpus: list[str]
    container: dict[str, Any]
    ray: dict[str, Any]
    trace: dict[str, Any] | None


class Provenance(_Facts):
    """Where one point comes from; times are in ISO 8601 with their zone."""

    source_sha256: str
    input_files: dict[str, str]
    calibrated: dict[str, str]
    command: str
    started: str
    ended: str


class Origin(_Facts):
    """Where a measurement of kernels comes from."""

    source_sha256: str
    started: str
    ended: str


def source_hash(root: Path = _ROOT) -> str:
    """SHA-256 over the names and contents of the source files that affect results."""
    digest = hashlib.sha256()
    for name in sorted(_source_files(root)):
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _source_files(root: Path) -> Iterator[str]:
    for folder in _DECISIVE:
        for path in (root / folder).rglob("*"):
            inner = path.relative_to(root)
            hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
            if inner.is_relative_to(_CARRIED) or hidden or path.suffix in (".pyc", ".so"):
                continue
            if path.is_file():
                yield inner.as_posix()


def hash_inputs(spec: PointSpec, *, without: Container[str] = ()) -> dict[str, str]:
    """SHA-256 of each existing input file of the spec, by field, except those of some fields."""
    paths = {field: path for field, path in spec.input_files.items() if field not in without}
    return {field: read_input(path).sha256 for field, path in paths.items()}


def command_of(spec: PointSpec) -> str:
    """The `bench run` command that reproduces the point, with every setting."""
    words = ["bench", "run"]
    for name, value in spec.to_dict().items():
        option = "swap-space" if name == "swap_space_gib" else name.replace("_", "-")
        if spec.trace and name in ("rate", "duration") and value == getattr(PointSpec, name):
            continue  # the trace's own
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        elif name == "window" and value is not None:
            words += [f"--{option}", f"{value[0]!r}:{value[1]!r}"]
        elif isinstance(value, tuple):
            words += [word for item in value for word in (f"--{option}", item)]
        elif value is not None:
            words += [f"--{option}", str(value)]
    return shlex.join(words)


def environment(*, source: str | None = None, gpu: bool = False) -> dict[str, Any]:
    """The provenance that all points of a run share; unknown facts are null.

    `source` is the hash of the sources if known already. With `gpu`, GPUs are listed by name.
    Raises UserError if what a launcher says of its container is damaged.
    """
    found: dict[str, Any] = {
        "source_sha256": source or source_hash(),
        **git_state(),
        "python": platform.python_version(),
        "engine_compiled": compiled.in_use(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "os": operating_system(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model() or None,
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
    }
    if gpu:
        found["gpus"] = gpu_names()
    return {**found, **_given()}


def _given() -> dict[str, Any]:
    text = os.environ.get(GIVEN, "{}")
    try:
        given: dict[str, Any] = json.loads(text)
        check(given, _Facts)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{GIVEN} holds no facts of a launcher ({error}): unset it") from None
    return given


def provenance_of(
    spec: PointSpec,
    *,
    shared: Mapping[str, Any],
    inputs: Mapping[str, Any],
    started: datetime,
    ended: datetime,
) -> dict[str, Any]:
    """The provenance of one point: the run's environment, its inputs, command and times (UTC)."""
    as_read = inputs.get("files", {})
    return {
        **shared,
        "input_files": {**hash_inputs(spec, without=as_read), **as_read},
        "trace": inputs.get("workload", {}).get("trace"),
        "calibrated": inputs.get("device_profile", {}).get("calibrated", {}),
        "command": command_of(spec),
        "started": started.isoformat(timespec="milliseconds"),
        "ended": ended.isoformat(timespec="milliseconds"),
    }
