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

_HOLDERS = {"results", measurements.FOLDER, "figures", "report"}  # folders of what runs have made
_SPEED = "scale-cpu.json"
# What may lie in a folder of ours; `data`, `reference` and the others are never touched.
_OURS = {*_HOLDERS, _SPEED, "data", "reference", "bundle", "gpu-check", "validation"}
_POINT = re.compile(r"results/(?:sim|cpu|cuda)/[^/]+-([0-9a-f]{12})")
_PARTS = (POINT, METRICS, REQUESTS)


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
    return Made(root, tuple(_find(root, _pattern(figures))))


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


def _pattern(figures: Iterable[str]) -> re.Pattern[str]:
    """What runs make, by its path below the artifacts."""
    effort = r"(?:(?:quick|short|full)/)?"
    point, parts = _POINT.pattern, "|".join(map(re.escape, _PARTS))
    made = (
        rf"{point}\.failure\.json",
        r"results/(?:sim|cpu|cuda)/\.[^/]+-[0-9a-f]{12}\.lock",
        rf"{point}/(?:{re.escape(PARTIAL)}/)?(?:{parts})",
        rf"{measurements.FOLDER}/(?:attention|recovery)-(?:cpu|cuda)/{measurements.FILE}",
        rf"figures/{effort}(?:{'|'.join(map(re.escape, figures))})\.(?:pdf|png)",
        rf"report/{effort}(?:index\.html|report\.md|report\.json)",
        _SPEED,
    )
    return re.compile("|".join(made))


def _find(root: Path, made: re.Pattern[str]) -> Iterator[Path]:
    """The files of this pattern, and what an interrupted writer has left of them.

    Of each point `point.json` comes first, so that no half of one looks whole.
    """
    for name, folders, files in os.walk(root):  # which follows no links
        folder = Path(name)
        inner = folder.relative_to(root)
        folders[:] = sorted(_HOLDERS.intersection(folders) if folder == root else folders)
        point = _POINT.fullmatch(inner.as_posix())
        if point is not None and not _is_point(folder, digest=point[1]):
            folders.clear()
            continue
        for file in sorted(files, key=lambda file: (file != POINT, file)):
            whole = inner / re.sub(r"^\.(.+)\.[0-9]+$", r"\1", file)
            if made.fullmatch(whole.as_posix()) and not (folder / file).is_symlink():
                yield folder / file


def _is_point(folder: Path, *, digest: str) -> bool:
    if not {path.name for path in folder.iterdir()} <= {*_PARTS, PARTIAL}:
        return False
    try:
        spec = json.loads((folder / POINT).read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True  # interrupted or damaged: its name and files are a point's
    text = json.dumps(spec, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest().startswith(digest)
