"""Options that say where points run, shared by the commands that run many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bench.pool import Place

Function = TypeVar("Function", bound=Callable[..., Any])

PLACE_OPTIONS = ("jobs", "ray")


def place_options(function: Function) -> Function:
    """Add the options named in `PLACE_OPTIONS`."""
    jobs = click.option(
        "--jobs",
        "-j",
        type=click.IntRange(min=1),
        metavar="N",
        help="Points to run at a time.  [default: one for each core]",
    )
    ray = click.option(
        "--ray",
        metavar="HOST:PORT|auto|local",
        help="Run the points on a Ray cluster: at an address, this node's (auto), or one of this "
        "machine alone (local).",
    )
    return jobs(ray(function))


def choose_place(given: Mapping[str, Any]) -> Place:
    """The place that the options ask for; raises UserError if it cannot be had."""
    from bench.local_pool import LocalProcesses

    if given["ray"] is not None:
        from bench.cluster.place import RayCluster

        cluster = RayCluster(given["ray"], jobs=given["jobs"])
        click.get_current_context().call_on_close(cluster.close)
        return cluster
    return LocalProcesses(jobs=given["jobs"])
