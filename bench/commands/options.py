"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bench.point.spec import MAX_SEED

Function = TypeVar("Function", bound=Callable[..., Any])
SEED = click.IntRange(0, MAX_SEED)
EXISTING_FILE = click.Path(exists=True, dir_okay=False)


def ray_option(function: Function) -> Function:
    """Add `--ray`, of a command that runs one model."""
    return click.option(
        "--ray",
        default="local",
        show_default=True,
        metavar="HOST:PORT|auto|local",
        help="Ray cluster for --tensor-parallel above 1 (cuda, cpu): at an address, this node's "
        "(auto), or one of this machine alone (local).",
    )(function)


def quiet_option(function: Function) -> Function:
    """Add `--quiet`."""
    return click.option("--quiet", "-q", is_flag=True, help="Show no progress.")(function)


def artifacts_option(function: Function) -> Function:
    """Add `--artifacts`."""
    return click.option(
        "--artifacts",
        type=click.Path(file_okay=False),
        default="artifacts",
        show_default=True,
        help="Directory of results, figures and report.",
    )(function)
