"""What each figure costs in simulation on two cores, as `tools.measure_times` found it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

PATH = Path(__file__).parent / "data" / "times.json"


@cache
def costs(figure: str) -> dict[str, dict[str, float]]:
    """A figure's `seconds` from the command to the drawing and `megabytes` of results, by effort.

    Empty for a figure that was not measured.
    """
    table: dict[str, dict[str, dict[str, float]]] = json.loads(PATH.read_text(encoding="utf-8"))
    return table.get(figure, {})
