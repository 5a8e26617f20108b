"""Options that choose among a figure's possible results, and the choice that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.backend import resolve_backend
from bench.commands.options import EXISTING_FILE, SEED, Function, artifacts_option
from bench.point.spec import BACKENDS

if TYPE_CHECKING:
    from bench.experiments.tables import Choice

_EFFORT_OPTIONS = (
    click.option(
        "--quick", is_flag=True, help="Short traces and fewer rates, to see that all works."
    ),
    click.option("--full", is_flag=True, help="The paper's own trace lengths (slower)."),
)


def effort_options(function: Function) -> Function:
    """Add `--quick` and `--full`."""
    for option in reversed(_EFFORT_OPTIONS):
        function = option(function)
    return function


def selection_options(function: Function) -> Function:
    """Add the options that choose among a figure's possible results."""
    options = (
        *_EFFORT_OPTIONS,
        click.option(
            "--lengths",
            type=EXISTING_FILE,
            help="Lengths of ShareGPT from a file (see `bench data`) instead of shipped "
            "statistics.",
        ),
        click.option("--seed", type=SEED, help="Another seed than the registry's."),
        click.option(
            "--backend",
            default="auto",
            show_default=True,
            metavar="|".join(BACKENDS),
            help="Whose results: simulated, or measured with a model on this device.",
        ),
        click.option(
            "--scale",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SPEED",
            help="Speed of this CPU for figures in miniature (--backend cpu), as a share of the "
            "paper's server.  [default: measured once]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return artifacts_option(function)


def selection_overrides(**choice: Any) -> dict[str, Any]:
    """The settings that replace the registry's: those of the options that were given."""
    names = ("lengths", "seed", "scale")
    return {name: choice[name] for name in names if choice.get(name) is not None}


def choice_of(
    options: Mapping[str, Any],
    root: Path,
    names: Sequence[str] = ("all",),
    *,
    measure: Callable[[], float] | None = None,
    keeps: bool = True,
) -> Choice:
    """The choice that the selection options stand for `names` of figures; raises UserError.

    The speed of this CPU, where figures are in miniature, is that of the results in `root`; if
    there is none, `measure` tells it, and with `keeps` it is kept there.
    """
    from bench.experiments import registry
    from bench.experiments.effort import Effort
    from bench.experiments.miniature import with_speed
    from bench.experiments.tables import Choice

    effort = Effort.of(quick=options["quick"], full=options["full"])
    backend = resolve_backend(options["backend"], here=options.get("runner") != "docker")
    overrides = selection_overrides(**options)
    if any(registry.find(name).panels for name in names):  # what has no points needs no speed
        overrides = with_speed(overrides, root, backend=backend, measure=measure, keeps=keeps)
    return Choice.of(backend=backend, effort=effort, overrides=overrides)
