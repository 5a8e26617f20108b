"""Normalized latency against request rate: Figures 12, 14, 16 and 17."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.experiments.capacity import LATENCY, LIMIT_S_PER_TOKEN, Bound, Estimate
from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from engines.core.config import System
from plot.layout import new_axes, place_legend, say_no_results, set_title
from plot.systems import EDGE, SYSTEMS, Look, in_order

PANEL_WIDTHS_IN = {1: 3.5, 2: 2.7, 3: 2.35}  # by the number of panels in a row
PANEL_HEIGHT_IN = 1.72
NARROWEST_LEGEND_ROW_IN = 5.0  # below, the legend takes two rows


def draw_latency(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """One set of axes for each panel, three (or two) in a row, with a common legend."""
    columns = min(len(tables), 2 if len(tables) in (2, 4) else 3)
    rows = math.ceil(len(tables) / columns)
    size = (
        columns * PANEL_WIDTHS_IN[columns],
        rows * PANEL_HEIGHT_IN + 0.62 + (0.3 if columns == 1 else 0.0),
    )
    canvas, axes = new_axes(columns, size, rows=rows)
    for index, ax in enumerate(axes.flat):
        if index >= len(tables):
            ax.set_axis_off()
            continue
        draw_panel(ax, tables[index])
        set_title(ax, tables[index].panel.title, index, of=len(tables))
        if index % columns == 0:
            ax.set_ylabel("Normalized latency (s/token)")
        if index + columns >= len(tables):
            ax.set_xlabel("Request rate (req/s)")
    handles = _handles(tables)
    wide = size[0] >= NARROWEST_LEGEND_ROW_IN
    place_legend(canvas, handles, columns=None if wide else math.ceil(len(handles) / 2))
    return canvas


def draw_panel(ax: Axes, table: PanelTable) -> None:
    """Draw the curves of one panel; a missing point breaks its line."""
    data = _points(table)
    for index, curve in enumerate(table.panel.curves):
        _draw_curve(ax, SYSTEMS[curve.system], data[data["curve"] == index])
    capacities = [table.capacity(index) for index in range(len(table.panel.curves))]
    ax.set_ylim(0, LIMIT_S_PER_TOKEN)
    ax.set_xlim(0, _right_end(data, capacities))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    if data[LATENCY].isna().all():
        ax.set_xticks([])
        say_no_results(ax)
    _mark_ratio(ax, table)


def _points(table: PanelTable) -> pd.DataFrame:
    """Rate and latency of a panel's points and of its searches' probes, at rising rates."""
    columns = ["curve", "rate", LATENCY]
    own = table.frame.reindex(columns=columns)
    probes = [
        (index, rate, latency)
        for index, curve in enumerate(table.panel.curves)
        if curve.system in table.searched
        for rate, latency in table.searched[curve.system].probes
    ]
    if not probes:
        return own.sort_values(columns[:2])
    both = pd.concat([own, pd.DataFrame(probes, columns=columns)])
    return both.drop_duplicates(columns[:2]).sort_values(columns[:2])


def _draw_curve(ax: Axes, look: Look, curve: pd.DataFrame) -> None:
    replace(look, marker="").draw(ax, curve["rate"], curve[LATENCY])
    inside = curve[curve[LATENCY] <= LIMIT_S_PER_TOKEN]
    if inside.empty:
        return  # an empty unclipped artist would upset the layout
    markers = replace(look, line="none")
    markers.draw(ax, inside["rate"], inside[LATENCY], clip_on=False, zorder=3, **EDGE)


def _right_end(data: pd.DataFrame, capacities: Sequence[Estimate | None]) -> float:
    """A little beyond the last crossing or the last point below the limit."""
    visible = data.loc[data[LATENCY] <= LIMIT_S_PER_TOKEN, "rate"]
    ends = [estimate.value for estimate in capacities if estimate is not None]
    return 1.06 * float(np.max([*visible, *ends], initial=1e-3))


def _mark_ratio(ax: Axes, table: PanelTable) -> None:
    """Write Astra's capacity over Orca (Oracle)'s between the two crossings, if both are exact.

    Both are by bisection if they were searched, and else off the curves.
    """
    both = (System.ASTRA, System.ORCA_ORACLE)
    systems = [curve.system for curve in table.panel.curves]
    if any(systems.count(name) != 1 for name in both) or table.absent["system"].isin(both).any():
        return
    crossings = [table.capacity(table.curve_of(name)) for name in both]
    if table.searched.keys() >= set(both):
        crossings = [Estimate(table.searched[name].capacity) for name in both]
    over, under = crossings
    if over is None or under is None or {over.bound, under.bound} != {Bound.EXACT}:
        return
    ratio = over.value / under.value
    if ratio < 1.15:
        return
    arrow = {"arrowstyle": "<->", "color": "#444444", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    height = LIMIT_S_PER_TOKEN
    ax.annotate(
        "", (under.value, height), (over.value, height), arrowprops=arrow, annotation_clip=False
    )
    ax.text(
        (under.value + over.value) / 2,
        height,
        f"{ratio:.1f}$\\times$",
        parse_math=True,
        ha="center",
        va="center",
        fontsize=6,
        color="#222222",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )


def _handles(tables: Sequence[PanelTable]) -> list[Line2D]:
    curves = [curve for table in tables for curve in table.panel.curves]
    labels = {str(curve.system): curve.label for curve in curves}
    return [SYSTEMS[name].handle(labels[name], **EDGE) for name in in_order(labels)]
