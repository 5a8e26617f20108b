"""How each system looks, everywhere: label, colour, marker, line and order.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and lines differ too,
so that figures survive printing in grey.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LineStyle = Literal["-", "--", "-.", ":"]


@dataclass(frozen=True)
class SystemStyle:
    """A system's label and its look."""

    label: str
    colour: str
    marker: str
    line: LineStyle


SYSTEMS: dict[str, SystemStyle] = {
    "astra": SystemStyle("Astra", "#0072B2", "o", "-"),
    "orca-oracle": SystemStyle("Orca (Oracle)", "#009E73", "^", "-"),
    "orca-pow2": SystemStyle("Orca (Pow2)", "#E69F00", "s", "--"),
    "orca-max": SystemStyle("Orca (Max)", "#D55E00", "D", "-."),
    "ft": SystemStyle("FasterTransformer", "#7F7F7F", "X", ":"),
}


def style_of(system: str) -> SystemStyle:
    """The look of a system, which must be in the table."""
    assert system in SYSTEMS, f"no style for system '{system}'"
    return SYSTEMS[system]


def in_order(systems: set[str]) -> list[str]:
    """Systems in the order of legends."""
    return [name for name in SYSTEMS if name in systems]
