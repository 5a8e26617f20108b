"""Where KV memory goes, as stacked bars: Figure 2."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import OURS_WIDTH, draw_paper_bar, paper_patch, place_legend
from plot.summary import CATEGORIES, kv_breakdown, paper_values
from plot.systems import style_of

COLOURS = {
    "token": "#0072B2",
    "reservation": "#8CC5E8",
    "internal": "#E69F00",
    "external": "#D3D3D3",
}
LABELS = {
    "token": "Token states",
    "reservation": "Reservation",
    "internal": "Internal fragmentation",
    "external": "External and other",
}
MIXED_COLOUR = "#B5B5B5"  # a number of the paper that several categories share
SMALLEST_LABELLED_PCT = 5.0


def draw_kv_memory(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """One stacked bar for each system, the paper's values in a thin hatched bar beside it."""
    size = (3.4 * len(tables), 2.9)
    canvas = Canvas(figsize=size, layout="constrained")
    axes = canvas.subplots(1, len(tables), squeeze=False)
    for ax, table in zip(axes.flat, tables, strict=True):
        _draw_ours(ax, table)
        _draw_paper(ax, figure, table)
        ax.set_ylim(0, 100)
        ax.set_ylabel("KV cache (% of slots)")
        ax.set_title(table.panel.title)
    patches = [Patch(color=COLOURS[name], label=LABELS[name]) for name in CATEGORIES]
    place_legend(canvas, [*patches, paper_patch()], columns=2)
    return canvas


def _draw_ours(ax: Axes, table: PanelTable) -> None:
    breakdown = kv_breakdown(table)
    base = [0.0] * len(breakdown)
    for category in CATEGORIES:
        values = breakdown[category].to_numpy(dtype=float)
        ax.bar(range(len(values)), values, OURS_WIDTH, base, color=COLOURS[category])
        for x, value in enumerate(values):
            if value >= SMALLEST_LABELLED_PCT:
                colour = "white" if category == "token" else "#222222"
                ax.text(
                    x,
                    base[x] + value / 2,
                    f"{value:.1f}",
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=6.5,
                )
            base[x] += value
    for x, missing in enumerate(breakdown["token"].isna()):
        if missing:
            ax.text(x, 50, "no result", ha="center", va="center", color="#999999", rotation=90)
    ax.set_xticks(range(len(breakdown)), [style_of(str(s)).label for s in breakdown.index])
    ax.tick_params(axis="x", length=0)


def _draw_paper(ax: Axes, figure: Figure, table: PanelTable) -> None:
    for x, system in enumerate(kv_breakdown(table).index):
        base = 0.0
        for metrics, value in paper_values(figure, table.panel.name, str(system)).items():
            category = metrics[0].removeprefix("kv_pct_")
            colour = COLOURS[category] if len(metrics) == 1 else MIXED_COLOUR
            draw_paper_bar(ax, x, value, base=base, colour=colour)
            base += value
