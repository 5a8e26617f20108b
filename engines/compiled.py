"""The simulation's hot modules as machine code: the same sources, compiled by mypyc.

A build is a folder named after a hash of all sources that it was made from, and `use` looks only
for the folder of the present sources. So an edited source never runs in an older compiled form: the
next command runs it as plain Python, with one notice, until `make install` compiles again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parent
BUILDS = PACKAGE / "_compiled"
GROUP = "engines_compiled"  # mypyc puts the code of all modules into one library, GROUP__mypyc
ROOMS = ("core", "astra", "orca", "ft", "sim")  # whose sources a build depends on
MODULES = (
    *("core.batch", "core.beams", "core.clock", "core.engine", "core.kv", "core.request"),
    *("core.scheduler", "core.stats"),
    *("astra.block_manager", "astra.block_pool", "astra.growth", "astra.scheduler"),
    *("orca.buddy", "orca.manager", "orca.scheduler", "ft.manager", "ft.scheduler"),
    *("sim.beams", "sim.cost", "sim.executor", "sim.interpolation", "sim.measured", "sim.waking"),
)
PURE = "BENCH_PURE_PYTHON"  # set: run the sources, whatever is compiled
_TOLD = "BENCH_STALE_TOLD"  # set for child processes once the notice has been given
_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
_ABI = _SUFFIX.removesuffix(".so")  # names Python's version and the platform


@cache
def key() -> str:
    """The name of the build that fits the present sources and this Python."""
    digest = hashlib.sha256(f"{_SUFFIX} {MODULES}".encode())
    for room in ROOMS:
        for path in sorted((PACKAGE / room).glob("*.py")):
            digest.update(f"\0{room}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16] + _ABI


def is_fresh() -> bool:
    """Whether there is a build of the present sources."""
    return (BUILDS / key()).is_dir()


def is_stale() -> bool:
    """Whether there are builds for this Python, but of other sources only."""
    return not is_fresh() and any(BUILDS.glob(f"*{_ABI}"))


def in_use() -> bool:
    """Whether this process runs the compiled modules."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def use() -> None:
    """Import the compiled modules instead of their sources from now on, if there is a build."""
    if os.environ.get(PURE) or not BUILDS.is_dir():
        return
    if is_fresh():
        sys.meta_path.insert(0, _Finder(BUILDS / key()))
        try:
            importlib.import_module(f"{GROUP}__mypyc")
        except ImportError:  # made on another system, whose C library is newer
            del sys.meta_path[0]
    elif is_stale() and not os.environ.get(_TOLD):
        os.environ[_TOLD] = "1"
        print(
            "notice: the engine's sources have changed since they were compiled and run as plain "
            "Python, two to three times slower: 'make install' compiles them again",
            file=sys.stderr,
        )


class _Finder:
    """Finds compiled modules, and the library that they share, in a build's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = {f"{GROUP}__mypyc", *(f"engines.{name}" for name in MODULES)}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module of the build is; None for any other."""
        if name not in self._names:
            return None
        file = self._folder.joinpath(*name.split(".")).with_suffix(_SUFFIX)
        return importlib.util.spec_from_file_location(name, file)
