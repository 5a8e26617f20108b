"""What a person sees while points run: bars on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 5.0


class Work(Protocol):
    """What is shown while it runs, such as a point: hashable, with a readable name."""

    @property
    def slug(self) -> str:
        """The name."""


class Display:
    """How the runner tells what is going on; this one shows nothing."""

    @contextmanager
    def over(self, weights: Mapping[Work, float]) -> Iterator[None]:
        """Show the progress of these points, each with its expected work, while inside."""
        yield

    def begin(self, spec: Work) -> None:
        """A point has started (again)."""

    def advance(self, spec: Work, fraction: float) -> None:
        """A share of a running point is done, 0 to 1."""

    def end(self, spec: Work, *, error: str = "") -> None:
        """A point has ended, with an error or without."""

    def note(self, line: str) -> None:
        """Something the user should know."""


class Ledger:
    """How much of the expected work is done; the time left follows from it."""

    def __init__(self, weights: Mapping[Work, float]) -> None:
        self._weights = dict(weights)
        self._done: dict[Work, float] = {}
        self.running: dict[Work, float] = {}
        self.total_points = len(self._weights)
        self._total = sum(self._weights.values())

    @property
    def points_done(self) -> int:
        """Points that have ended."""
        return len(self._done)

    @property
    def share(self) -> float:
        """Work done over all work, 0 to 1."""
        running = sum(self._weights[spec] * part for spec, part in self.running.items())
        return (sum(self._done.values()) + running) / self._total if self._total else 1.0

    def begin(self, spec: Work) -> None:
        """Count a point among the running ones, from nothing."""
        self.running[spec] = 0.0

    def advance(self, spec: Work, fraction: float) -> None:
        """Note the share of a running point."""
        self.running[spec] = min(max(fraction, 0.0), 1.0)

    def end(self, spec: Work) -> None:
        """Count a point as done."""
        self.running.pop(spec, None)
        self._done[spec] = self._weights[spec]

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left at the pace so far; None while nothing is known."""
        share = self.share
        return elapsed_s * (1 - share) / share if share > 0 else None


class Lines(Display):
    """Plain lines for pipes and logs: one per finished point, and a summary now and then."""

    def __init__(self, stream: TextIO | None = None, *, every_s: float = _LINE_EVERY_S) -> None:
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._ledger = Ledger({})
        self._began = self._last = time.monotonic()

    @contextmanager
    def over(self, weights: Mapping[Work, float]) -> Iterator[None]:
        """Start counting."""
        self._ledger = Ledger(weights)
        self._began = self._last = time.monotonic()
        yield

    def begin(self, spec: Work) -> None:
        """Count the point as running."""
        self._ledger.begin(spec)

    def advance(self, spec: Work, fraction: float) -> None:
        """Print a summary if the last line is a while ago."""
        self._ledger.advance(spec, fraction)
        if time.monotonic() - self._last >= self._every_s:
            running = ", ".join(f"{s.slug} {f:.0%}" for s, f in self._ledger.running.items())
            self._print(f"{self._tell()}; running: {running}")

    def end(self, spec: Work, *, error: str = "") -> None:
        """Print the point and where the whole stands."""
        self._ledger.end(spec)
        self._print(f"{self._tell()}: {spec.slug}{': FAILED: ' + error if error else ''}")

    def note(self, line: str) -> None:
        """Print the line."""
        self._print(line)

    def _tell(self) -> str:
        elapsed_s = time.monotonic() - self._began
        left_s = self._ledger.left_s(elapsed_s)
        left = "" if left_s is None or self._ledger.share >= 1 else f", {clock(left_s)} left"
        points = f"{self._ledger.points_done}/{self._ledger.total_points} points"
        return f"[{points}, {clock(elapsed_s)}{left}]"

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
        self._last = time.monotonic()


class Bars(Display):
    """Live bars on a terminal: the whole, and each running point."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = _make_progress(console)
        self._ledger = Ledger({})
        self._whole: TaskID | None = None
        self._tasks: dict[Work, TaskID] = {}
        self._began = time.monotonic()

    @contextmanager
    def over(self, weights: Mapping[Work, float]) -> Iterator[None]:
        """Show the bars while inside."""
        self._ledger = Ledger(weights)
        self._began = time.monotonic()
        with self._progress:
            self._whole = self._progress.add_task("all points", total=1.0, left="")
            self._refresh()
            try:
                yield
            finally:
                for task in self._tasks.values():
                    self._progress.remove_task(task)
                self._tasks.clear()

    def begin(self, spec: Work) -> None:
        """Add a bar for the point."""
        self._ledger.begin(spec)
        if spec not in self._tasks:
            self._tasks[spec] = self._progress.add_task(f"  {spec.slug}", total=1.0, left="")

    def advance(self, spec: Work, fraction: float) -> None:
        """Move the point's bar and the whole one."""
        self._ledger.advance(spec, fraction)
        self._progress.update(self._tasks[spec], completed=fraction)
        self._refresh()

    def end(self, spec: Work, *, error: str = "") -> None:
        """Take the point's bar away; a failure leaves a line."""
        self._ledger.end(spec)
        self._progress.remove_task(self._tasks.pop(spec))
        if error:
            self.note(f"FAILED {spec.slug}: {error}")
        self._refresh()

    def note(self, line: str) -> None:
        """Print the line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)

    def _refresh(self) -> None:
        assert self._whole is not None, "bars are updated only inside over()"
        left_s = self._ledger.left_s(time.monotonic() - self._began)
        self._progress.update(
            self._whole,
            completed=self._ledger.share,
            description=f"{self._ledger.points_done}/{self._ledger.total_points} points",
            left="" if left_s is None else f"{clock(left_s)} left",
        )


def _make_progress(console: Console | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console or Console(stderr=True),
        transient=True,
    )


def clock(seconds: float) -> str:
    """Write a duration as 5s, 3m10s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def choose(*, quiet: bool = False) -> Display:
    """The display that fits where standard error goes."""
    if quiet:
        return Display()
    return Bars() if sys.stderr.isatty() else Lines()
