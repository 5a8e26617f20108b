"""Latency against the block size: Figures 18b and 19b."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import new_axes, place_legend, say_no_results, set_title
from plot.preemption import LOOKS
from plot.summary import paper_range
from plot.systems import EDGE, SYSTEMS

PAPER_COLOUR = "#EDEDED"


def draw_block_sizes(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """One set of axes for each panel; the paper's best block sizes are shaded."""
    canvas, axes = new_axes(len(tables), (2.7 * len(tables) + 0.2, 2.5))
    for index, (ax, table) in enumerate(zip(axes[0], tables, strict=True)):
        latencies = by_block_size(table)
        SYSTEMS["astra"].draw(ax, latencies.index, latencies, zorder=3, **EDGE)
        _shade(ax, paper_range(figure, table.panel.name))
        _scale(ax, latencies)
        set_title(ax, table.panel.title, index, of=len(tables))
    axes[0][0].set_ylabel("Normalized latency (s/token)")
    place_legend(canvas, [Patch(color=PAPER_COLOUR, label="best in the paper")])
    return canvas


def draw_preemption_latency(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Recomputation and swapping in one set of axes."""
    canvas, axes = new_axes(1, (3.5, 2.6))
    ax = axes[0][0]
    handles = []
    for table in tables:
        look, latencies = LOOKS[table.panel.settings["preemption"]], by_block_size(table)
        look.draw(ax, latencies.index, latencies, zorder=3, **EDGE)
        handles.append(look.handle())
    comparable = figure.claims[0].args["block_sizes"]
    _shade(ax, (float(comparable[0]), float(comparable[-1])))
    _scale(ax, pd.concat([by_block_size(table) for table in tables]))
    ax.set_ylabel("Normalized latency (s/token)")
    rate = f"{tables[0].specs[0].rate:g}"
    ax.set_title(f"ShareGPT, {rate} req/s")
    shade = Patch(color=PAPER_COLOUR, label="comparable in the paper")
    place_legend(canvas, [*handles, shade], columns=2)
    return canvas


def by_block_size(table: PanelTable) -> pd.Series[float]:
    """Mean normalized latency by block size (index), rising; NaN where a point is missing."""
    return table.metric("mean_normalized_latency_s", by="block_size").sort_index()


def _shade(ax: Axes, best: tuple[float, float] | None) -> None:
    if best is not None:
        ax.axvspan(best[0] / 2**0.5, best[1] * 2**0.5, color=PAPER_COLOUR, linewidth=0, zorder=0)


def _scale(ax: Axes, latencies: pd.Series[float]) -> None:
    """Powers of two below; 1, 2 and 5 of each decade on the left."""
    sizes = sorted({int(size) for size in latencies.index})
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator([float(size) for size in sizes]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    ax.set_xlabel("Block size (tokens)")
    if latencies.isna().all():  # a logarithmic axis needs something to show
        ax.set_yticks([])
        say_no_results(ax)
        return
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(latencies.min() / 1.6, latencies.max() * 1.6)
