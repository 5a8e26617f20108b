"""The command line `bench`: one group, one line on standard error for anything a user can mend."""

from __future__ import annotations

import errno
import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from engines.core.errors import LostWorkerError, UserError, unknown_name

# Command: its module and its line in `bench --help`, which loads none of the modules.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("bench.commands.run", "Run one point and print its metrics."),
    "generate": ("bench.commands.generate", "Run given prompts and print their tokens."),
    "figure": ("bench.commands.figure", "Run and draw figures of the paper."),
    "points": ("bench.commands.points", "Run points that are given as JSON lines."),
    "plot": ("bench.commands.plot", "Draw figures from the results that are there."),
    "report": ("bench.commands.report", "Hold every number against the paper's."),
    "capacity": ("bench.commands.capacity", "Find the rate that a system sustains, by bisection."),
    "reference": ("bench.commands.reference", "Compare results with the reference, or renew it."),
    "figures": ("bench.commands.figures", "List the figures: what they need and how long."),
    "kernels": ("bench.commands.kernels", "Time the kernels on this device (Figures 18a, 19a)."),
    "profile": ("bench.commands.profile", "Measure this device for the simulation."),
    "data": ("bench.commands.data", "Fetch or import data sets."),
    "images": ("bench.commands.images", "Build the systems' container images, or list them."),
    "launch": ("bench.commands.launch", "Run a command in a container of a system's image."),
    "bundle": ("bench.commands.bundle", "Archive images, locks, results and sources, or check."),
    "doctor": ("bench.commands.doctor", "Check this machine: what works, what is missing."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used, and reports errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module_name, _ = COMMANDS[cmd_name]
        command = importlib.import_module(module_name).command
        assert isinstance(command, click.Command), f"{module_name}.command is no command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` start with; a misspelt one gets the nearest names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run and exit: 2 for what the user can mend, 1 for a lost process, 130 after Ctrl-C."""
        extra["standalone_mode"] = False
        _write_any_text()
        try:
            status = self._run(*args, **extra)
        except UserError as error:
            _fail(str(error), 2)
        except LostWorkerError as error:
            _fail(f"{error}. The same command may succeed another time", 1)
        except MemoryError:
            _fail("out of memory on this machine: ask for less at once", 1)
        except click.ClickException as error:
            _fail(error.format_message(), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        except Exception as error:
            if (reason := _trouble(error)) is None:
                raise
            _fail(reason, 2)
        sys.exit(status if isinstance(status, int) else 0)

    def _run(self, *args: Any, **extra: Any) -> Any:
        """The status of the command; a group without a command shows its help."""
        try:
            return super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            return 0


def _trouble(error: Exception) -> str | None:
    """What an error means that comes from around a command, in one line; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left for the output: free some, or send it elsewhere"
    from bench.docker.daemon import trouble

    return trouble(error)


def _write_any_text() -> None:
    """Let a terminal or a pipe without Unicode show what it lacks as escapes, not stop at it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="astra-artifact", prog_name="bench")
def main() -> None:
    """Reproduce the experiments of the PagedAttention paper (SOSP 2023).

    Exit status: 0 if all went well, 1 if a point failed, 2 for input that you can mend,
    130 after Ctrl-C.
    """


if __name__ == "__main__":
    main()
