"""Commands of `bench` run in this process, and what is said of every one that goes well or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bench.cli import main


def bench(*words: str | Path, **extra: Any) -> Result:
    """Run a command to its end."""
    return CliRunner().invoke(main, list(map(str, words)), **extra)


def passed(*words: str | Path, **extra: Any) -> Result:
    """Run a command that goes well."""
    result = bench(*words, **extra)
    assert result.exit_code == 0, result.output
    return result


def refused(*words: str | Path, **extra: Any) -> str:
    """Run a command with a mistake in it; returns the one line that tells it."""
    result = bench(*words, **extra)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr
