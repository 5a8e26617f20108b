"""The choice among a figure's possible results that the options of a command stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.miniature import with_speed
from bench.experiments.tables import Choice
from bench.point.spec import Backend

OVERRIDES = ("lengths", "seed", "scale")


def choice_of(
    given: Mapping[str, Any],
    backend: Backend,
    names: Sequence[str] = ("all",),
    *,
    measure: Callable[[], float] | None = None,
) -> Choice:
    """The choice that `selection_options` stand for, of figures `names`; raises UserError.

    The speed of this CPU, where figures are in miniature, is that of the results among the
    artifacts; if there is none, `measure` tells it, and it is kept there except in a dry run.
    """
    overrides = {name: given[name] for name in OVERRIDES if given.get(name) is not None}
    if any(registry.find(name).panels for name in names):  # what has no points needs no speed
        overrides = with_speed(
            overrides,
            given["artifacts"],
            backend=backend,
            measure=measure,
            keeps=not given.get("dry_run"),
        )
    effort = Effort.of(backend, **{name: given[name] for name in Effort})
    return Choice.of(backend=backend, effort=effort, overrides=overrides)
