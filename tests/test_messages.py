"""What a message tells a user to type exists, in a command that can print the message."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache

import click
import pytest

from bench.cli import COMMANDS, main
from tests.test_architecture import SOURCES, imports_of

# Commands of ours that a module tells its reader to run, or runs itself.
ALSO = {
    "bench.commands.data": ("run",),
    "bench.commands.reference": ("figure",),
    "bench.devices.contained": ("kernels",),
    "bench.devices.doctor": ("run", "figure"),
    "bench.docker.bundle": ("run",),
    "bench.sweep.containers": ("points",),
    "bench.sweep.ray_guard": ("figure",),
}
NVIDIA_SMI = {"--query-gpu", "--format"}
BUILD = {"--device", "--arch"}  # of python -m engines.kernels.build
# Words of other programs' command lines.
OTHERS = {
    "bench.docker.gpus": NVIDIA_SMI,
    "bench.docker.checks": {"--runtime"},
    "bench.docker.container": {"--runtime"},
    "bench.machine": NVIDIA_SMI | {"--no-optional-locks", "--porcelain"},
    "bench.devices.doctor": {"--global", "--add"},
    "bench.point.smollm2": {"--hash", "--disable-pip-version-check", "--no-deps", "--dest"}
    | {"--require-hashes", "--requirement"},
    "bench.sweep.ray_task": BUILD,
    "engines.kernels.build": BUILD | {"--no-as-needed", "--exclude-libs"},
    "engines.kernels.driver": NVIDIA_SMI | {"--force-reinstall"},
    "engines.kernels.library": BUILD,
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
CALL = re.compile(r"\bbench ([a-z]+)")
NO_COMMANDS = {"is", "has", "command", "cannot", "on", "point", "figure"}  # after the word bench


@cache
def tree() -> Mapping[str, click.Command]:
    """Every command by its words."""
    context = click.Context(main)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
    return found


def options_of(command: click.Command) -> set[str]:
    return {word for param in command.params for word in (*param.opts, *param.secondary_opts)}


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(name for name in imports_of(module) if name in SOURCES)


@cache
def reach(module: str) -> frozenset[str]:
    """A module and all that it imports, at any depth."""
    found, todo = {module}, [module]
    while todo:
        new = imported(todo.pop()) - found
        found |= new
        todo += new
    return frozenset(found)


def messages(module: str) -> Iterator[str]:
    """The literal texts of a module, its docstrings aside; parts of an f-string as one."""
    syntax = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(syntax):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                skipped.add(first.value)
        if isinstance(node, ast.JoinedStr):
            skipped |= set(ast.walk(node)) - {node}
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.value


def unknown_words(module: str) -> Iterator[str]:
    """Options and commands that the messages of a module name and nobody has who prints them."""
    users = [name for name in COMMANDS if module in reach(f"bench.commands.{name}")]
    for text in messages(module):
        named = [name for name in CALL.findall(text) if name not in NO_COMMANDS]
        yield from (f"{module}: bench {name}" for name in named if name not in COMMANDS)
        called = {*users, *named, *ALSO.get(module, ())}
        commands = [each for name, each in tree().items() if name.split()[0] in called]
        known = OTHERS.get(module, set()).union({"--help"}, *map(options_of, commands))
        yield from (f"{module}: {word}" for word in OPTION.findall(text) if word not in known)


def test_options_and_commands_in_messages_exist() -> None:
    assert [line for module in sorted(SOURCES) for line in unknown_words(module)] == []


def test_a_message_that_names_what_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.messages", lambda _: ["give --since TIME", "bench rum"])
    assert set(unknown_words("plot.draw")) == {"plot.draw: bench rum", "plot.draw: --since"}
