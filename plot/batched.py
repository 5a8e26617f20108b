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
    panel_letter,
    paper_patch,
    place_legend,
    set_title,
)
from plot.summary import paper_values, system_metric
from plot.systems import style_of

BATCHED, USED = "mean_running_requests", "kv_used_pct"


def draw_batched(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Two rows: KV slots allocated and mean batched requests; one column for each workload."""
    size = (2.55 * len(tables) + 0.1, 3.6)
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots(2, len(tables), squeeze=False)
    for column, table in enumerate(tables):
        upper, lower = axes[0][column], axes[1][column]
        _draw_bars(upper, system_metric(table, USED), "{:.0f}")
        upper.set_ylim(0, 112)
        upper.set_yticks([0, 25, 50, 75, 100])
        set_title(upper, f"{panel_letter(column)}Memory in use, {table.panel.title}")
        _draw_bars(lower, system_metric(table, BATCHED), "{:.1f}")
        _draw_paper(lower, figure, table)
        lower.set_ylim(0, lower.get_ylim()[1] * 1.08)
        letter = panel_letter(len(tables) + column)
        set_title(lower, f"{letter}Batched requests, {table.panel.title}")
    axes[0][0].set_ylabel("KV slots allocated (%)")
    axes[1][0].set_ylabel("Mean batched requests")
    canvas.align_ylabels(axes[:, 0])
    place_legend(canvas, [paper_patch()])
    return canvas


def _draw_bars(ax: Axes, values: pd.Series[float], form: str) -> None:
    styles = [style_of(str(system)) for system in values.index]
    heights = values.to_numpy(dtype=float)
    ax.bar(range(len(heights)), heights, OURS_WIDTH, color=[style.colour for style in styles])
    for x, height in enumerate(heights):
        if np.isnan(height):
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
        else:
            ax.annotate(
                form.format(height),
                (x, height),
                (0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
    ax.set_xticks(range(len(styles)), [style.label.replace(" ", "\n") for style in styles])
    ax.set_xlim(-0.5, len(styles) - 0.35)
    ax.tick_params(axis="x", length=0)


def _draw_paper(ax: Axes, figure: Figure, table: PanelTable) -> None:
    for x, curve in enumerate(table.panel.curves):
        value = paper_values(figure, table.panel.name, curve.system).get((BATCHED,))
        if value is not None:
            draw_paper_bar(ax, x, value, base=0.0, colour=style_of(curve.system).colour)
