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
from plot.layout import OURS_WIDTH, draw_paper_bar, panel_letter, paper_patch, place_legend
from plot.summary import paper_values, system_metric
from plot.systems import style_of

SAVING = "sharing_saving_pct"
METHODS = {"n": "parallel sampling", "b": "beam search"}
AXIS_LABELS = {"n": "Outputs", "b": "Beam width"}
WORKLOADS = {"alpaca": "Alpaca", "sharegpt": "ShareGPT"}
RANGE: dict[str, Any] = {"color": "#888888", "linestyle": "--", "linewidth": 0.8, "zorder": 2}


def draw_sharing(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Axes for each workload and method, a bar for each number of sequences."""
    grouped: dict[tuple[str, str], list[PanelTable]] = {}
    for table in tables:
        settings = table.panel.settings
        key = (str(settings["workload"]), str(settings["sampling"])[0])
        grouped.setdefault(key, []).append(table)
    canvas = Canvas(figsize=(max(3.5, 1.75 * len(grouped)), 2.4), layout="constrained")
    axes = canvas.subplots(1, len(grouped), squeeze=False)[0]
    for index, (ax, (key, some)) in enumerate(zip(axes, grouped.items(), strict=True)):
        _draw_group(ax, figure, some)
        workload, method = key
        letter = panel_letter(index) if len(grouped) > 1 else ""
        ax.set_title(f"{letter}{WORKLOADS[workload]},\n{METHODS[method]}")
        ax.set_xlabel(AXIS_LABELS[method])
    axes[0].set_ylabel("Blocks saved (%)")
    span = Line2D([], [], label="ends of the paper's range", **RANGE)
    place_legend(canvas, [paper_patch(), span])
    return canvas


def _draw_group(ax: Axes, figure: Figure, tables: Sequence[PanelTable]) -> None:
    style = style_of("astra")
    highest = 1.0
    for x, table in enumerate(tables):
        value = float(system_metric(table, SAVING)["astra"])
        paper = paper_values(figure, table.panel.name, "astra").get((SAVING,))
        if math.isfinite(value):
            ax.bar(x, value, OURS_WIDTH, color=style.colour)
            _write(ax, x, value)
            highest = max(highest, value)
        if paper is not None:
            draw_paper_bar(ax, x, paper, base=0.0, colour=style.colour)
            highest = max(highest, paper)
    limits = _limits(figure, tables)
    for limit in limits:
        ax.axhline(limit, **RANGE)
    ax.set_xticks(range(len(tables)), [str(t.panel.settings["sampling"])[-1] for t in tables])
    ax.set_xlim(-0.5, len(tables) - 0.4)
    ax.set_ylim(0, 1.14 * max((highest, *limits)))
    ax.tick_params(axis="x", length=0)


def _write(ax: Axes, x: int, value: float) -> None:
    ax.annotate(
        f"{value:.1f}",
        (x, value),
        (0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=6.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        zorder=3,
    )


def _limits(figure: Figure, tables: Sequence[PanelTable]) -> tuple[float, ...]:
    """Both ends of the range that the paper gives for these together; () if it gives none."""
    names = {table.panel.name for table in tables}
    for claim in figure.claims:
        if claim.args.get("panel") in names and isinstance(claim.paper, tuple):
            return claim.paper
    return ()
