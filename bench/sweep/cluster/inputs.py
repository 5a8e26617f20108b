"""What a point needs on a node that shares no files with this one: sources and input files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import bench
import engines
from bench.point.spec import PointSpec
from bench.results.provenance import INPUT_FILES
from engines.core.errors import UserError
from engines.kernels.build import DEVICES, library_folder, library_path, source_folder


@dataclass(frozen=True)
class InputFile:
    """A file by its name and content."""

    name: str
    content: bytes


def pack(spec: PointSpec) -> dict[str, InputFile]:
    """Read the input files that a spec names and that are there, by field."""
    paths = {field: getattr(spec, field) for field in INPUT_FILES}
    return {
        field: InputFile(Path(path).name, Path(path).read_bytes())
        for field, path in paths.items()
        if path is not None and Path(path).is_file()
    }


def unpack(spec: PointSpec, files: Mapping[str, InputFile], folder: Path) -> PointSpec:
    """Write input files below `folder`; returns the spec that reads them from there.

    Each keeps its name, which is part of some results.
    """
    places = {}
    for field, file in files.items():
        path = folder / field / file.name
        path.parent.mkdir(parents=True)
        path.write_bytes(file.content)
        places[field] = str(path)
    return replace(spec, **places)  # type: ignore[arg-type]


def stage_sources(folder: Path, *, further: Iterable[Path] = ()) -> None:
    """Copy the sources that run points into `folder`, with the kernels that are compiled from them.

    `further` are other modules' files to put beside them.
    """
    for package in (engines, bench):
        top = Path(str(package.__file__)).parent
        shutil.copytree(
            top, folder / top.name, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.so")
        )
    csrc = source_folder()
    if csrc is not None:
        shutil.copytree(csrc, folder / "csrc")
    target = folder / "engines" / "kernels" / "lib"
    target.mkdir(exist_ok=True)
    for device in DEVICES:
        for library in compiled_kernels(device):
            shutil.copy2(library, target)
    for path in further:
        shutil.copy2(path, folder)


def compiled_kernels(device: str) -> list[Path]:
    """The library of a device's kernels, if it is compiled from the present sources."""
    csrc = source_folder()
    if csrc is None:  # installed from a wheel, which carries one
        return sorted(library_folder().glob(f"_{device}-*.so"))
    return [path for path in (library_path(device, csrc),) if path.exists()]


def require_kernels(specs: Iterable[PointSpec]) -> None:
    """Raise UserError if points need CUDA kernels, which nodes do not compile themselves."""
    if any(spec.backend == "cuda" for spec in specs) and not compiled_kernels("cuda"):
        raise UserError(
            "the cuda kernels, which nodes get from here, are not compiled: run python -m "
            "engines.kernels.build --device cuda (it needs nvcc, but no GPU)"
        )
