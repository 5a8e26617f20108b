"""The command line `bench`: one group, one line on standard error for anything a user can fix."""

from __future__ import annotations

import errno
import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from bench.sweep.ray_guard import join_guard, run_guarded, wants_guard
from engines.core.errors import LostWorkerError, UserError, unknown_name
from engines.core.text import printable, shorten

_LONGEST_ERROR = 300  # characters
# How a file system refuses a file or a name that a user gave.
_REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL),
)

# Commands, each a module of `bench.commands`, and their lines in `bench --help`, which loads none.
COMMANDS: Mapping[str, str] = {
    "run": "Run one point and print its metrics.",
    "generate": "Run given prompts and print their tokens.",
    "figure": "Run and draw figures of the paper.",
    "points": "Run points that are given as JSON lines.",
    "plot": "Draw figures from the results that are there.",
    "report": "Hold every number against the paper's.",
    "capacity": "Find the rate that a system sustains, by bisection.",
    "reference": "Compare results with the reference, or renew it.",
    "figures": "List the figures: what they need and how long.",
    "kernels": "Time the kernels on this device (Figures 18a, 19a).",
    "profile": "Measure this device for the simulation.",
    "validate": "Hold the simulation against this device.",
    "data": "Fetch or import data sets.",
    "images": "Build the systems' container images, or list them.",
    "launch": "Run a command in a container of a system's image.",
    "bundle": "Archive images, locks, results and sources, or check.",
    "clean": "Remove results, figures and report.",
    "doctor": "Check this machine: what works, what is missing.",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and reports errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import one command; a misspelt one gets the nearest names."""
        if cmd_name not in COMMANDS:
            raise unknown_name("command", cmd_name, COMMANDS)
        command: click.Command = importlib.import_module(f"bench.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run and exit: 2 for what the user can fix, 1 for a lost process, 130 after Ctrl-C."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Without Unicode, show what is missing as escapes instead of stopping at it.
                stream.reconfigure(errors="backslashreplace")
        try:
            status = self._run_and_tell(*args, **{**extra, "standalone_mode": False})
        except KeyboardInterrupt:  # while an error was told
            status = 130
        sys.exit(status if isinstance(status, int) else 0)

    def _run_and_tell(self, *args: Any, **extra: Any) -> Any:
        """The status of the command, after the line that tells what went wrong, if anything."""
        try:
            return self._run(*args, **extra)
        except (Exception, KeyboardInterrupt) as error:
            explained = explain(error)
            if explained is None:
                raise
            message, status = explained
            line = shorten(printable(" ".join(message.split())), _LONGEST_ERROR)
            click.echo(f"Error: {line}", err=True)
            return status

    def _run(self, *args: Any, **extra: Any) -> Any:
        """The status of the command; a group without a command shows its help."""
        words = sys.argv[1:]
        if not args and "args" not in extra and not join_guard() and wants_guard(words):
            return run_guarded(words)
        try:
            return super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            return 0


def explain(error: BaseException) -> tuple[str, int] | None:
    """What an error means to the user, and the exit status; None for a fault of the program."""
    found: tuple[str, int] | None
    match error:
        case UserError():
            found = str(error), 2
        case LostWorkerError():
            found = f"{error}. The same command may succeed another time", 1
        case MemoryError():
            found = "out of memory on this machine: ask for less at once", 1
        case click.ClickException():
            found = error.format_message(), error.exit_code
        case click.Abort() | KeyboardInterrupt():
            found = "interrupted", 130
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            found = "no space left for the output: free some, or send it elsewhere", 2
        case OSError(errno=number) if number in _REFUSALS:
            found = f"{error.filename or 'a file'} is of no use here: {error.strerror}", 2
        case _:
            from bench.docker.daemon import trouble

            reason = trouble(error)
            found = None if reason is None else (reason, 2)
    return found


_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=LazyGroup, context_settings=_SETTINGS)
@click.version_option(package_name="astra-artifact", prog_name="bench")
def main() -> None:
    """Reproduce the experiments of the PagedAttention paper (SOSP 2023).

    Exit status: 0 if all went well, 1 if a point failed, 2 for input that you can fix,
    130 after Ctrl-C.
    """
