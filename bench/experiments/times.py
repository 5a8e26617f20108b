"""What each figure costs in simulation on two cores, as `tools.measure_times` found it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent / "data" / "times.json"


def costs(figure: str) -> dict[str, dict[str, float]]:
    """A figure's `seconds` from the command to the drawing and `megabytes` of results, by effort.

    Empty for a figure that was not measured.
    """
    found: dict[str, dict[str, float]] = _table().get(figure, {})
    return found


def machine() -> str:
    """What was measured on, in one line."""
    return str(_table()["machine"])


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return table
