"""Command lines of the benchmarks: an error is one line, and numbers are read as `bench` does."""

from __future__ import annotations

import argparse
from typing import NoReturn

from engines.core.text import parse_whole


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it; exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message."""
        self.exit(2, f"Error: {' '.join(message.split())}\n")


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        if (number := parse_whole(text)) < 1:
            raise ValueError(f"must be at least 1, got {number}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return number
