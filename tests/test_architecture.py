"""The rooms: imports point one way, no file is in a circle, only the command line knows click."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A room may import from the rooms named before it, and from itself.
ROOMS = (
    "engines.core",
    "engines.astra",
    "engines.orca",
    "engines.ft",
    "engines.systems",
    "engines.sim",
    "engines.kernels",
    "engines.models",
    "engines.execution",
    "bench.files",
    "bench.records",
    "bench.machine",
    "bench.progress",
    "bench.workloads",
    "bench.point",
    "bench.results",
    "bench.docker",
    "bench.experiments",
    "bench.devices",
    "bench.sweep",
    "bench.claims",
    "bench.validation",
    "plot",
    "bench.report",
    "bench.commands",
    "bench.cli",
    "bench.__main__",
)
DOORS = ("bench.commands", "bench.cli")
LONGEST_FILE = 350


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {
    module_of(path): path
    for package in ("engines", "bench", "plot")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room a module is in; packages above all rooms are in none."""
    return max((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), key=len, default="")


def imports_of(module: str) -> Iterator[str]:
    """The modules that a module imports, at its top, in a function or for types only."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_below(room: str) -> None:
    allowed = {"", *ROOMS[: ROOMS.index(room) + 1]}
    upward = {
        f"{module} -> {imported}"
        for module in SOURCES
        if room_of(module) == room
        for imported in imports_of(module)
        if imported in SOURCES and room_of(imported) not in allowed
    }
    assert not upward


def test_every_module_is_in_a_room() -> None:
    assert [m for m in SOURCES if not room_of(m)] == ["engines", "engines.compiled", "bench"]


def test_no_import_circle() -> None:
    graph = {m: {i for i in imports_of(m) if i in SOURCES} - {m} for m in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_only_the_command_line_imports_click() -> None:
    users = {m for m in SOURCES if "click" in {i.split(".")[0] for i in imports_of(m)}}
    assert {m for m in users if not m.startswith(DOORS)} == set()


def calls_of(module: str) -> set[str]:
    """The last names of all that a module calls."""
    nodes = ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8")))
    return {n.func.attr for n in nodes if isinstance(n, ast.Call) and hasattr(n.func, "attr")}


def test_what_stays_is_written_whole_by_one_module() -> None:
    writers = {m for m in SOURCES if {"write_text", "write_bytes"} & calls_of(m)}
    temporary = {"bench.sweep.ray_task", "bench.point.smollm2", "engines.kernels.build"}
    assert writers == {"bench.files", *temporary}


def test_commands_print_through_one_module() -> None:
    printers = {m for m in SOURCES if m.startswith(DOORS) and "echo" in calls_of(m)}
    assert printers == {"bench.commands.output", "bench.cli"}


def test_no_file_is_too_long() -> None:
    paths = [*SOURCES.values(), *(p for p in (ROOT / "csrc").rglob("*.*") if p.is_file())]
    long = {
        str(p.relative_to(ROOT)) for p in paths if len(p.read_text().splitlines()) > LONGEST_FILE
    }
    assert not long
