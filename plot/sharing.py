"""Blocks saved by sharing, by number of outputs and beam width: Figure 15."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import (
    OURS_WIDTH,
    draw_paper_bar,
    new_axes,
    paper_patch,
    place_legend,
    set_title,
    write_above,
)
from plot.summary import paper_range, paper_values
from plot.systems import SYSTEMS

SAVING = "sharing_saving_pct"
METHODS = {"n": ("parallel sampling", "Outputs"), "b": ("beam search", "Beam width")}
WORKLOADS = {"alpaca": "Alpaca", "sharegpt": "ShareGPT"}
RANGE: dict[str, Any] = {"color": "#888888", "linestyle": "--", "linewidth": 0.8, "zorder": 2}


def draw_sharing(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Axes for each workload and method, a bar for each number of sequences."""
    grouped: dict[tuple[str, str], list[PanelTable]] = {}
    for table in tables:
        settings = table.panel.settings
        key = (str(settings["workload"]), str(settings["sampling"])[0])
        grouped.setdefault(key, []).append(table)
    canvas, axes = new_axes(len(grouped), (max(3.5, 1.75 * len(grouped)), 2.4))
    for index, (ax, (key, some)) in enumerate(zip(axes[0], grouped.items(), strict=True)):
        _draw_group(ax, figure, some)
        workload, letter = key
        method, label = METHODS[letter]
        set_title(ax, f"{WORKLOADS[workload]},\n{method}", index, of=len(grouped))
        ax.set_xlabel(label)
    axes[0][0].set_ylabel("Blocks saved (%)")
    span = Line2D([], [], label="ends of the paper's range", **RANGE)
    place_legend(canvas, [paper_patch(), span])
    return canvas


def _draw_group(ax: Axes, figure: Figure, tables: Sequence[PanelTable]) -> None:
    colour = SYSTEMS["astra"].colour
    highest = 1.0
    for x, table in enumerate(tables):
        value = float(table.metric(SAVING)["astra"])
        paper = paper_values(figure, table.panel.name, "astra").get((SAVING,))
        if math.isfinite(value):
            ax.bar(x, value, OURS_WIDTH, color=colour)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
            write_above(ax, x, value, f"{value:.1f}", bbox=box, zorder=3)
            highest = max(highest, value)
        if paper is not None:
            draw_paper_bar(ax, x, paper, base=0.0, colour=colour)
            highest = max(highest, paper)
    ranges = [paper_range(figure, table.panel.name) for table in tables]
    limits = next((both for both in ranges if both is not None), ())
    for limit in limits:
        ax.axhline(limit, **RANGE)
    ax.set_xticks(range(len(tables)), [str(t.panel.settings["sampling"])[-1] for t in tables])
    ax.set_xlim(-0.5, len(tables) - 0.4)
    ax.set_ylim(0, 1.14 * max((highest, *limits)))
    ax.tick_params(axis="x", length=0)
