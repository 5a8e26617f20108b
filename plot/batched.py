"""Batched requests and memory in use at saturation: Figure 13."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import (
    OURS_WIDTH,
    draw_paper_bar,
    new_axes,
    paper_patch,
    place_legend,
    say_no_result,
    set_title,
)
from plot.summary import paper_values
from plot.systems import SYSTEMS

BATCHED, USED = "mean_running_requests", "kv_used_pct"


def draw_batched(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Two rows: KV slots allocated and mean batched requests; one column for each workload."""
    canvas, axes = new_axes(len(tables), (2.55 * len(tables) + 0.1, 3.6), rows=2)
    for column, table in enumerate(tables):
        upper, lower = axes[0][column], axes[1][column]
        _draw_bars(upper, table.metric(USED), "{:.0f}")
        upper.set_ylim(0, 112)
        upper.set_yticks([0, 25, 50, 75, 100])
        set_title(upper, f"Memory in use, {table.panel.title}", column, of=axes.size)
        _draw_bars(lower, table.metric(BATCHED), "{:.1f}")
        _draw_paper(lower, figure, table)
        lower.set_ylim(0, lower.get_ylim()[1] * 1.08)
        title = f"Batched requests, {table.panel.title}"
        set_title(lower, title, len(tables) + column, of=axes.size)
    axes[0][0].set_ylabel("KV slots allocated (%)")
    axes[1][0].set_ylabel("Mean batched requests")
    canvas.align_ylabels(axes[:, 0])
    place_legend(canvas, [paper_patch()])
    return canvas


def _draw_bars(ax: Axes, values: pd.Series[float], form: str) -> None:
    styles = [SYSTEMS[str(system)] for system in values.index]
    heights = values.tolist()
    colours = [style.colour for style in styles]
    bars = ax.bar(range(len(heights)), heights, OURS_WIDTH, color=colours)
    ax.bar_label(bars, fmt=form, padding=2, fontsize=6.5)
    for x, height in enumerate(heights):
        if np.isnan(height):
            say_no_result(ax, x)
    ax.set_xticks(range(len(styles)), [style.label.replace(" ", "\n") for style in styles])
    ax.set_xlim(-0.5, len(styles) - 0.35)
    ax.tick_params(axis="x", length=0)


def _draw_paper(ax: Axes, figure: Figure, table: PanelTable) -> None:
    for x, curve in enumerate(table.panel.curves):
        value = paper_values(figure, table.panel.name, curve.system).get((BATCHED,))
        if value is not None:
            draw_paper_bar(ax, x, value, base=0.0, colour=SYSTEMS[curve.system].colour)
