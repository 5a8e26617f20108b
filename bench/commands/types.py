"""How options are read: numbers in plain digits, folders and files that have a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.point.spec import MAX_SEED
from engines.core.errors import UserError
from engines.core.text import parse_decimal, parse_whole


class _Plain(click.ParamType):  # type: ignore[type-arg]
    """Text that is read by `read` before click holds it against the bounds."""

    read: Callable[[str], float]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click; fails in one line."""
        try:
            number = self.read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return super().convert(number, param, ctx)


class Whole(_Plain, click.IntRange):
    """A whole number in ASCII digits, within bounds."""

    read = staticmethod(parse_whole)


class Decimal(_Plain, click.FloatRange):
    """A finite number in ASCII digits, within bounds."""

    read = staticmethod(parse_decimal)


class Numbers(Whole):
    """Whole numbers within bounds, separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click; fails in one line."""
        return tuple(super(Numbers, self).convert(part, param, ctx) for part in value.split(","))


class Place(click.Path):
    """A file or folder; no name at all is refused, since it would mean the present folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See click; fails in one line."""
        if not str(value):
            self.fail("it is empty: name a file or folder", param, ctx)
        return super().convert(value, param, ctx)


SEED = Whole(0, MAX_SEED)
COUNT = Whole(min=1)
SECONDS = Decimal(min=0)
DIRECTORY = Place(file_okay=False, path_type=Path)
NEW_FILE = Place(dir_okay=False, path_type=Path)
EXISTING_FOLDER = Place(exists=True, file_okay=False, path_type=Path)
EXISTING_FILE = Place(exists=True, dir_okay=False, path_type=Path)
INPUT = Place(exists=True, dir_okay=False)  # kept in a point's settings as it was written


def window(text: str) -> tuple[float, float]:
    """Read a span of time, START:END in seconds; raises UserError."""
    start, _, end = text.partition(":")
    try:
        return parse_decimal(start), parse_decimal(end)
    except ValueError as error:
        raise UserError(f"--window takes START:END in seconds, as in 300:900: {error}") from None
