"""What each figure costs in simulation: time on two cores and disk, as `tools.measure_times` found.

The table is data beside the code, so that the README, `make help` and `bench figures` tell one
number, and one command measures it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources

from bench.experiments.effort import Effort

FILE = "times.json"


@dataclass(frozen=True)
class Cost:
    """Seconds from the command to the drawn figure, and megabytes of results."""

    seconds: float
    megabytes: float


@cache
def _table() -> dict[str, dict[str, dict[str, float]]]:
    found = resources.files("bench.experiments").joinpath(FILE).read_text(encoding="utf-8")
    table: dict[str, dict[str, dict[str, float]]] = json.loads(found)
    return table


def cost_of(figure: str, effort: Effort) -> Cost | None:
    """The cost of a figure; None where it was not measured."""
    found = _table().get(figure, {}).get(effort.value)
    return None if found is None else Cost(**found)


def to_text(costs: Mapping[str, Mapping[Effort, Cost]]) -> str:
    """The content of the table's file."""
    values = {
        figure: {effort.value: asdict(cost) for effort, cost in found.items()}
        for figure, found in costs.items()
    }
    return json.dumps(values, indent=1) + "\n"
