"""Finding and removing what runs have left in an artifacts directory.

A file counts as ours by its place and its name, and a result also by what it says: `point.json`
holds the settings whose digest ends its folder's name. Links are never followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.files import PARTIAL, describe, lock
from bench.results import measurements
from bench.results.point_files import METRICS, POINT, REQUESTS
from engines.core.errors import UserError

_BACKENDS = ("sim", "cpu", "cuda")
_EFFORTS = (".", "quick", "full")  # folders of figures and reports
_POINT_NAME = re.compile(r".+-([0-9a-f]{12})")
_BESIDE_POINTS = re.compile(r".+-[0-9a-f]{12}\.failure\.json|\..+-[0-9a-f]{12}\.lock")
_REPORTS = ("index.html", "report.md", "report.json")
_SPEED = "scale-cpu.json"
# What may lie in a folder of ours; `data`, `reference` and the others are never touched.
_OURS = {
    *("results", measurements.FOLDER, "figures", "report", _SPEED),
    *("data", "reference", "bundle", "gpu-check", "validation"),
}


@dataclass(frozen=True)
class Made:
    """The files that runs have made, in the order of their removal, and the folder they are in."""

    root: Path
    paths: tuple[Path, ...]

    @property
    def lines(self) -> list[str]:
        """What there is, a line for each folder."""
        counts = Counter(self._group(path.relative_to(self.root)) for path in self.paths)
        return [f"{self.root / group}: {count} files" for group, count in counts.items()]

    @staticmethod
    def _group(inner: Path) -> Path:
        return Path(*inner.parts[:2]) if len(inner.parts) > 2 else inner.parent


def find_made(root: Path, figures: Iterable[str]) -> Made:
    """Find what runs have left in an artifacts directory; `figures` are the names of drawings.

    Raises UserError for a folder that no run would have made, such as a home.
    """
    folder = root.resolve()
    if folder in (Path(folder.anchor), Path(os.path.expanduser("~")).resolve()):
        raise UserError(f"{root} is no artifacts directory: name the one to clean")
    if not folder.exists():
        return Made(root, ())
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    if names and not names & _OURS:
        raise UserError(f"{root} is no artifacts directory: it holds nothing that bench has made")
    found = [
        *_points(root / "results"),
        *_kernels(root / measurements.FOLDER),
        *_known(
            root / "figures", {f"{name}.{kind}" for name in figures for kind in ("pdf", "png")}
        ),
        *_known(root / "report", set(_REPORTS)),
        *_files(root, {_SPEED}),
    ]
    return Made(root, tuple(found))


def remove(made: Made) -> None:
    """Remove the files and the folders that are empty then.

    Raises UserError, with nothing removed, if a run is writing there.
    """
    for path in made.paths:
        if path.name.endswith(".lock"):
            with lock(path, wait=False) as free:
                if not free:
                    raise UserError(f"{made.root} is in use: a command is running points there")
    folders = dict.fromkeys(parent for path in made.paths for parent in path.parents)
    try:
        for path in made.paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise describe(error, made.root) from error
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if folder != made.root and folder.is_relative_to(made.root):
            with suppress(OSError):  # what is not empty stays
                folder.rmdir()


def _points(results: Path) -> Iterator[Path]:
    """The files of points; of each `point.json` first, so that no half of one looks whole."""
    for backend in _folders(results, _BACKENDS):
        for entry in sorted(backend.iterdir()):
            if _BESIDE_POINTS.fullmatch(entry.name) and _is_file(entry):
                yield entry
            elif _is_folder(entry) and _is_point(entry):
                names = (POINT, METRICS, REQUESTS)
                yield from _files(entry, set(names))
                yield from _files(entry / PARTIAL, set(names))


def _is_point(folder: Path) -> bool:
    named = _POINT_NAME.fullmatch(folder.name)
    known = {POINT, METRICS, REQUESTS, PARTIAL}
    if named is None or not {path.name for path in folder.iterdir()} <= known:
        return False
    try:
        spec = json.loads((folder / POINT).read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True  # interrupted or damaged: its name and files are a point's
    text = json.dumps(spec, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest().startswith(named[1])


def _kernels(folder: Path) -> Iterator[Path]:
    names = [f"{part}-{device}" for part in ("attention", "recovery") for device in ("cpu", "cuda")]
    for inner in _folders(folder, names):
        yield from _files(inner, {measurements.FILE})


def _known(folder: Path, names: set[str]) -> Iterator[Path]:
    for inner in _folders(folder, _EFFORTS) if _is_folder(folder) else ():
        yield from _files(inner, names)


def _folders(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    if _is_folder(folder):
        yield from (inner for name in names if _is_folder(inner := folder / name))


def _files(folder: Path, names: set[str]) -> Iterator[Path]:
    """The files of these names, and what an interrupted writer has left of them."""
    for path in sorted(folder.iterdir()) if _is_folder(folder) else ():
        whole = re.sub(r"^\.(.+)\.[0-9]+$", r"\1", path.name)
        if whole in names and _is_file(path):
            yield path


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
