"""Where KV memory goes, as stacked bars: Figure 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import (
    OURS_WIDTH,
    PAPER_HATCH,
    draw_paper_bar,
    new_axes,
    paper_patch,
    place_legend,
    say_no_result,
)
from plot.summary import paper_values
from plot.systems import SYSTEMS

CATEGORIES = {  # from below: label and colour
    "token": ("Token states", "#0072B2"),
    "reservation": ("Reservation", "#8CC5E8"),
    "internal": ("Internal fragmentation", "#E69F00"),
    "external": ("External and other", "#D3D3D3"),
}
MIXED_COLOUR = "#8F8F8F"  # a number of the paper that several categories share
MIXED_LABEL = "all waste (the paper, Astra)"
SMALLEST_LABELLED_PCT = 5.0


def draw_kv_memory(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """One stacked bar for each system, the paper's values in a thin hatched bar beside it."""
    canvas, axes = new_axes(len(tables), (3.4 * len(tables), 2.9))
    for ax, table in zip(axes.flat, tables, strict=True):
        _draw_ours(ax, table)
        _draw_paper(ax, figure, table)
        ax.set_ylim(0, 100)
        ax.set_ylabel("KV cache (% of slots)")
        ax.set_title(table.panel.title)
    patches = [Patch(color=colour, label=label) for label, colour in CATEGORIES.values()]
    mixed = Patch(facecolor=MIXED_COLOUR, edgecolor="white", hatch=PAPER_HATCH, label=MIXED_LABEL)
    place_legend(canvas, [*patches, mixed, paper_patch()], columns=2)
    return canvas


def _draw_ours(ax: Axes, table: PanelTable) -> None:
    systems = [curve.system for curve in table.panel.curves]
    base = np.zeros(len(systems))
    for category, (_, shade) in CATEGORIES.items():
        values = table.metric(f"kv_pct_{category}").to_numpy()
        bars = ax.bar(range(len(values)), values, OURS_WIDTH, base, color=shade)
        labels = [f"{value:.1f}" if value >= SMALLEST_LABELLED_PCT else "" for value in values]
        colour = "white" if category == "token" else "#222222"
        ax.bar_label(bars, labels, label_type="center", color=colour, fontsize=6.5)
        base += values
    for x, missing in enumerate(table.metric("kv_pct_token").isna()):
        if missing:
            say_no_result(ax, x)
    ax.set_xticks(range(len(systems)), [SYSTEMS[system].label for system in systems])
    ax.tick_params(axis="x", length=0)


def _draw_paper(ax: Axes, figure: Figure, table: PanelTable) -> None:
    for x, curve in enumerate(table.panel.curves):
        base = 0.0
        for metrics, value in paper_values(figure, table.panel.name, curve.system).items():
            category = metrics[0].removeprefix("kv_pct_")
            colour = CATEGORIES[category][1] if len(metrics) == 1 else MIXED_COLOUR
            draw_paper_bar(ax, x, value, base=base, colour=colour)
            base += value
