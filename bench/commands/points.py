"""`bench points`: run points given as JSON lines; what containers and scripts call.

The contract with a caller elsewhere, such as the launcher of containers: the caller mounts the
artifacts, writes the specs (`PointSpec.to_dict`, one JSON object a line) to standard input or a
file, and finds the results in the store. Each point is locked while it runs and run once, so that
several `bench points` over one store, given the same specs, split the work by themselves. With
--json a line of standard output tells each change of a point:

    {"point": NAME, "event": "begin"}
    {"point": NAME, "event": "advance", "share": 0.25}     at most once a second and point
    {"point": NAME, "event": "end", "error": ""}           in the store, or why it failed, in a line

NAME is `bench.results.store.name_of(spec)`. A point that failed leaves its record in the store,
too. Exit status: 0, or 1 if a point failed, 2 for bad input, 130 after Ctrl-C.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click

from bench.commands import options
from bench.commands.output import note, print_json, tell_summary
from bench.point.spec import PointSpec
from bench.progress import Display, Work, choose
from bench.records import RecordError, parse_object
from bench.results.store import Store, name_of
from bench.sweep.local import LocalProcesses
from bench.sweep.runner import run_points
from engines.core.errors import UserError

_ADVANCE_EVERY_S = 1.0


@click.command("points")
@click.argument(
    "file", type=click.File(encoding="utf-8", errors="surrogateescape"), metavar="FILE|-"
)
@options.artifacts
@options.jobs(help="Points to run at a time.  [default: one for each core]")
@options.force
@click.option(
    "--since",
    metavar="TIME",
    help="With --force: results made since this time (ISO 8601) are not made again, so that "
    "commands that share the work run each point once.  [default: now]",
)
@options.as_json(help="Print each change of a point as JSON.")
@options.quiet
@click.pass_context
def command(
    ctx: click.Context, /, *, file: TextIO, artifacts: Path, as_json: bool, **given: Any
) -> None:
    """Bring points, given as JSON lines, into the artifacts.

    Each line of FILE holds a point's settings, such as {"system": "astra", "rate": 2.0}. Complete
    points are skipped. Several such commands over the same artifacts split the work.
    """
    specs = read_specs(file)
    store = Store(artifacts)
    summary = run_points(
        store,
        specs,
        place=LocalProcesses(jobs=given["jobs"]),
        force=_since(given["since"]) if given["force"] else False,
        display=JsonLines() if as_json else choose(quiet=given["quiet"]),
    )
    if not given["quiet"]:
        tell_summary(summary, store)
    ctx.exit(summary.exit_status)


class JsonLines(Display):
    """Tells each change of a point as a JSON object on a line of standard output."""

    def __init__(self) -> None:
        self._told_s: dict[Work, float] = {}

    def begin(self, spec: Work) -> None:
        """A point has started (again)."""
        self._tell(spec, event="begin")

    def advance(self, spec: Work, fraction: float) -> None:
        """A share is done; told now and then."""
        if time.monotonic() - self._told_s.get(spec, 0.0) >= _ADVANCE_EVERY_S:
            self._tell(spec, event="advance", share=fraction)

    def end(self, spec: Work, *, error: str = "") -> None:
        """A point has ended."""
        self._tell(spec, event="end", error=error)

    def note(self, line: str) -> None:
        """Leave notes to standard error."""
        note(line)

    def _tell(self, spec: Work, **change: Any) -> None:
        assert isinstance(spec, PointSpec)
        self._told_s[spec] = time.monotonic()
        print_json({"point": name_of(spec), **change})


def read_specs(file: TextIO) -> Sequence[PointSpec]:
    """Read points, one JSON object a line; raises UserError with the line's number."""
    specs = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{getattr(file, 'name', '<stdin>')} line {number}"
        try:
            spec = PointSpec.from_dict(parse_object(line))
        except (UserError, RecordError) as error:
            raise UserError(f"{where}: {error}") from error
        if spec.backend == "auto":
            raise UserError(f"{where}: say which backend: cuda, cpu or sim")
        specs.append(spec)
    return specs


def _since(text: str | None) -> datetime:
    try:
        return datetime.now(UTC) if text is None else datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UserError(f"--since takes a time such as 2026-01-31T12:00Z, got '{text}'") from None
