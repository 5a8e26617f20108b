"""Placing what surrounds the axes: legend above, provenance and gaps below."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from bench.experiments.miniature import MINIATURE
from engines.core.text import printable, shorten

LINE_IN = 0.098  # height of one footer line
MARGIN_IN = 0.05
FOOTER_POINTS = 5.3
CHARACTERS_PER_IN = 24.5
FOOTER_COLOUR, GAP_COLOUR = "#555555", "#B03A2E"
MAX_GAP_LINES = 8
LONGEST_LINE = 600  # characters of the footer or of a gap
PLANNED_LINES = 2  # of the footer; the figure grows for more
OURS_WIDTH, PAPER_WIDTH, PAPER_OFFSET = 0.54, 0.13, 0.36  # of bars, in units of categories
PAPER_HATCH = "//////"


def new_axes(columns: int, size: tuple[float, float], *, rows: int = 1) -> tuple[Canvas, Any]:
    """A figure of `size` inches, and its axes as an array of [rows, columns]."""
    canvas = Canvas(figsize=size, layout="constrained")
    return canvas, canvas.subplots(rows, columns, squeeze=False)


def set_title(ax: Axes, text: str, index: int = 0, *, of: int = 1) -> None:
    """Give axes a title; of several, with a letter: `(a) `, `(b) `, ...

    In miniature it says so on a line of its own, as neighbours are near.
    """
    letter = f"({chr(ord('a') + index)}) " if of > 1 else ""
    ax.set_title(letter + text.replace(MINIATURE, f"\n{MINIATURE.strip()}"))


def place_legend(canvas: Canvas, handles: Sequence[Artist], *, columns: int | None = None) -> None:
    """Put one legend for all axes at the top of the figure; the layout makes room for it."""
    canvas.legend(handles=list(handles), loc="outside upper center", ncols=columns or len(handles))


def say_no_results(ax: Axes) -> None:
    """Write into empty axes that there is nothing to show yet."""
    ax.text(0.5, 0.5, "no results yet", transform=ax.transAxes, ha="center", color="#999999")


def say_no_result(ax: Axes, x: float) -> None:
    """Write in the place of a bar that its result is missing."""
    ax.text(
        x,
        0.5,
        "no result",
        transform=ax.get_xaxis_transform(),
        rotation=90,
        ha="center",
        va="center",
        color="#999999",
    )


def write_above(ax: Axes, x: float, y: float, text: str, *, gap: float = 2, **options: Any) -> None:
    """Write a number over a bar's end or a point, `gap` points above."""
    options = {"fontsize": 6.5, **options}
    ax.annotate(text, (x, y), (0, gap), textcoords="offset points", ha="center", **options)


def paper_patch() -> Patch:
    """The legend's entry for the thin hatched bars that hold the paper's values."""
    return Patch(
        facecolor="#BBBBBB", edgecolor="white", hatch=PAPER_HATCH, label="thin, hatched: the paper"
    )


def draw_paper_bar(ax: Axes, x: float, value: float, *, base: float, colour: str) -> None:
    """Draw one of the paper's values beside the bar at `x`."""
    ax.bar(
        x + PAPER_OFFSET,
        value,
        PAPER_WIDTH,
        base,
        color=colour,
        hatch=PAPER_HATCH,
        edgecolor="white",
        linewidth=0,
    )


def finish(canvas: Canvas, *, footer: str, gaps: Sequence[str] = ()) -> None:
    """Write the footer, name the gaps, and fit everything else above them."""
    width, height = canvas.get_size_inches()
    limit = int(width * CHARACTERS_PER_IN)
    lines = [(line, FOOTER_COLOUR) for line in _fold(_bounded(footer), limit)]
    shown = [line for gap in gaps for line in _fold(_bounded(gap), limit)]
    if len(shown) > MAX_GAP_LINES:
        shown = [*shown[: MAX_GAP_LINES - 1], "… and more: the report names every one"]
    lines += [(line, GAP_COLOUR) for line in shown]
    height += max(0, len(lines) - PLANNED_LINES) * LINE_IN
    canvas.set_size_inches(width, height)
    for index, (text, colour) in enumerate(reversed(lines)):
        y = (MARGIN_IN + index * LINE_IN) / height
        canvas.text(0.5, y, text, ha="center", va="bottom", fontsize=FOOTER_POINTS, color=colour)
    bottom = (MARGIN_IN * 2 + len(lines) * LINE_IN) / height
    engine = canvas.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine), "figures use the constrained layout"
    engine.set(rect=(0, bottom, 1, 1 - bottom), w_pad=0.05, h_pad=0.05, wspace=0.04, hspace=0.05)


def _bounded(text: str) -> str:
    """Text of results, which may name anything, as it can be drawn."""
    return shorten(printable(text), LONGEST_LINE)


def _fold(text: str, limit: int) -> list[str]:
    """Break a line at its separators rather than inside a phrase, into lines of like length."""
    lines = _broken(text, limit)
    while limit > 1 and len(_broken(text, limit - 1)) == len(lines):
        limit -= 1
    return _broken(text, limit)


def _broken(text: str, limit: int) -> list[str]:
    lines = [""]
    for part in text.split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(joined) <= limit or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(part)
    return [piece for line in lines for piece in wrap(line, limit)]
