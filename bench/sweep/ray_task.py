"""A point as a Ray task: what a node needs to run it, and what it sends back."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import bench
import engines
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.results.provenance import environment, source_hash
from bench.sweep.place import Ended, RunPoint, failure
from engines.core.errors import UserError
from engines.kernels.build import DEVICES, library_path, source_folder

_TELL_EVERY_S = 0.5


def stage_sources(folder: Path) -> None:
    """Copy the sources that run points into `folder`, with the kernels compiled from them."""
    for package in (engines, bench):
        top = Path(str(package.__file__)).parent
        ignored = shutil.ignore_patterns("__pycache__", ".*", "lib")
        shutil.copytree(top, folder / top.name, ignore=ignored)
    csrc = source_folder()
    if csrc is not None and not (folder / "engines" / "kernels" / "csrc").exists():
        shutil.copytree(csrc, folder / "csrc")
    target = folder / "engines" / "kernels" / "lib"
    target.mkdir(exist_ok=True)
    for library in [path for device in DEVICES for path in compiled(device)]:
        shutil.copy2(library, target)


def compiled(device: str) -> list[Path]:
    """The library of a device's kernels, if it is compiled from the present sources."""
    csrc = source_folder()
    path = None if csrc is None else library_path(device, csrc)
    return [path] if path is not None and path.exists() else []


def require_kernels(specs: Iterable[PointSpec]) -> None:
    """Raise UserError if points need CUDA kernels, which nodes do not compile themselves."""
    if any(spec.backend == "cuda" for spec in specs) and not compiled("cuda"):
        raise UserError(
            "the cuda kernels, which nodes get from here, are not compiled: run python -m "
            "engines.kernels.build --device cuda (it needs nvcc, but no GPU)"
        )


def read_inputs(spec: PointSpec) -> dict[str, tuple[str, bytes]]:
    """Name and content of a spec's existing input files, by field."""
    return {name: (p.name, p.read_bytes()) for name, p in spec.input_files.items()}


@dataclass(frozen=True)
class Order:
    """A point to run on a node, with its input files and the hash of the sources to run."""

    spec: PointSpec
    inputs: Mapping[str, tuple[str, bytes]]
    run: RunPoint
    source_sha256: str


@dataclass(frozen=True)
class Served:
    """A point's outcome; `machine` is the provenance that only the node knows."""

    outcome: Outcome
    machine: Mapping[str, Any]
    started: datetime
    ended: datetime


def serve(order: Order) -> Iterator[float | Ended | Served]:
    """Run a point on a node; yields its progress now and then, and finally its outcome."""
    news: SimpleQueue[float | Ended | Served] = SimpleQueue()
    threading.Thread(target=_serve, args=(order, news.put), daemon=True).start()
    told_s = 0.0
    while isinstance(message := news.get(), float):
        if time.monotonic() - told_s >= _TELL_EVERY_S:
            told_s = time.monotonic()
            yield message
    yield message


def _serve(order: Order, tell: Callable[[float | Ended | Served], None]) -> None:
    """Serve the order; an exception fails the point, not the task."""
    try:
        found = source_hash()
        if found != order.source_sha256:
            raise UserError(
                f"the node runs other sources ({found[:12]}) than this command "
                f"({order.source_sha256[:12]}): start the command again"
            )
        started = datetime.now(UTC)
        # Below the sources, which Ray removes even if this process is killed.
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="inputs-") as folder:
            spec = with_inputs(order.spec, order.inputs, Path(folder))
            outcome = order.run(spec, on_progress=lambda share: tell(float(share)))
        tell(Served(outcome, _machine(order), started, datetime.now(UTC)))
    except Exception as error:
        tell(failure(order.spec, error))


def with_inputs(
    spec: PointSpec, inputs: Mapping[str, tuple[str, bytes]], folder: Path
) -> PointSpec:
    """Write input files below `folder`; returns the spec that reads them from there.

    Each keeps its name, which is part of some results.
    """
    places: dict[str, Any] = {}
    for field, (name, content) in inputs.items():
        path = folder / field / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        places[field] = str(path)
    return replace(spec, **places)


def _machine(order: Order) -> dict[str, Any]:
    """The provenance of this node, which has the sources but no git checkout."""
    import ray

    facts = environment(source=order.source_sha256, gpu=order.spec.measured)
    address = ray.util.get_node_ip_address()
    return {
        **{name: fact for name, fact in facts.items() if not name.startswith("git_")},
        "ray": {"version": ray.__version__, "node": address},
    }
