"""What a person sees while points run: bars on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engines.core.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0
_MOST_NAMED = 3  # running points in a line
Work = Hashable  # what is shown while it runs, such as a point: its text is its name


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

    @contextmanager
    def single(self, name: str) -> Iterator[Callable[[float], None]]:
        """Show one piece of work while inside; yields what takes the share that is done."""
        with self.over({name: 1.0}):
            self.begin(name)
            yield lambda share: self.advance(name, share)
            self.end(name)


class Shown(Display):
    """Progress on a console: live bars on a terminal; elsewhere a line every `LINE_EVERY_S`.

    Notes and failures are printed at once. The time left follows from the pace so far.
    """

    def __init__(self, console: Console, *, get_time: Callable[[], float] = time.monotonic) -> None:
        self._console, self._get_time = console, get_time
        self._live = console.is_terminal and not console.is_dumb_terminal

    @contextmanager
    def over(self, weights: Mapping[Work, float]) -> Iterator[None]:
        """Show the progress while inside; a log gets a last line at the end."""
        self._weights, self._last_line = dict(weights), self._get_time()
        self._tasks: dict[Work, TaskID] = {}  # of running points
        self._ended: set[Work] = set()
        self._progress = _make_progress(self._console, self._get_time, live=self._live)
        self._progress.add_task("", total=sum(weights.values()))
        self._refresh()
        try:
            with self._progress:
                yield
        finally:
            if self._ended and not self._live:
                self.note(self._state())

    def begin(self, spec: Work) -> None:
        """Count the point among the running ones, from nothing."""
        if spec in self._tasks:
            self._progress.remove_task(self._tasks[spec])
        name = printable(str(spec))
        self._tasks[spec] = self._progress.add_task(name, total=self._weights[spec])

    def advance(self, spec: Work, fraction: float) -> None:
        """Note the share of the point."""
        self._progress.update(self._tasks[spec], completed=fraction * self._weights[spec])
        self._refresh()

    def end(self, spec: Work, *, error: str = "") -> None:
        """Count the point as done; a failure leaves a line."""
        self._progress.remove_task(self._tasks.pop(spec))
        self._ended.add(spec)
        if error:
            self.note(f"FAILED {spec}: {error}")
        self._refresh()

    def note(self, line: str) -> None:
        """Print the line, above the bars where there are any."""
        wraps = not self._live
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=wraps)

    def _refresh(self) -> None:
        whole, *running = self._progress.tasks
        done = sum(self._weights[spec] for spec in self._ended)
        done += sum(task.completed for task in running)
        points = f"{len(self._ended)}/{len(self._weights)} points"
        self._progress.update(whole.id, completed=done, description=points)
        if not self._live and self._get_time() - self._last_line >= LINE_EVERY_S:
            self.note(self._state())
            self._last_line = self._get_time()

    def _state(self) -> str:
        """Where the whole stands, in a line."""
        whole, *running = self._progress.tasks
        left = f", {clock(whole.time_remaining)} left" if whole.time_remaining else ""
        line = f"[{whole.description}, {whole.percentage:.0f}%, {clock(whole.elapsed or 0)}{left}]"
        if not running:
            return line
        named = [f"{task.description} {task.percentage:.0f}%" for task in running[:_MOST_NAMED]]
        more = f" and {len(running) - len(named)} more" if len(running) > len(named) else ""
        return f"{line} running: {', '.join(named)}{more}"


def _make_progress(console: Console, get_time: Callable[[], float], *, live: bool) -> Progress:
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not live,
        get_time=get_time,
        speed_estimate_period=3600.0,
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
    from rich.console import Console

    return Shown(Console(stderr=True, force_terminal=sys.stderr.isatty()))
