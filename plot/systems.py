"""How each system looks, everywhere: label, colour, marker, line and order.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers and lines differ too,
so that figures survive printing in grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.4}


@dataclass(frozen=True)
class Look:
    """How a system, or one of several things compared, is drawn and called."""

    label: str
    colour: str
    marker: str
    line: Literal["-", "--", "-.", ":", "none"] = "-"

    @property
    def style(self) -> dict[str, Any]:
        """Colour, marker and line, as Matplotlib's lines take them."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}

    def draw(self, ax: Axes, x: Any, y: Any, **options: Any) -> None:
        """Draw a line with markers; a value that is NaN breaks it."""
        ax.plot(x, y, **self.style, **options)

    def handle(self, label: str | None = None, **options: Any) -> Line2D:
        """The legend's entry."""
        return Line2D([], [], label=label or self.label, **self.style, **options)


SYSTEMS: dict[str, Look] = {
    "astra": Look("Astra", "#0072B2", "o"),
    "orca-oracle": Look("Orca (Oracle)", "#009E73", "^"),
    "orca-pow2": Look("Orca (Pow2)", "#E69F00", "s", "--"),
    "orca-max": Look("Orca (Max)", "#D55E00", "D", "-."),
    "ft": Look("FasterTransformer", "#7F7F7F", "X", ":"),
}


def in_order(systems: Iterable[str]) -> list[str]:
    """Systems in the order of legends."""
    known = set(systems)
    return [name for name in SYSTEMS if name in known]
