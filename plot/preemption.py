"""What it costs to preempt one sequence, by block size: Figure 19a."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure as Canvas

from bench.experiments.computed import preemption_costs
from bench.experiments.miniature import TYPICAL_BATCH
from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from plot.layout import new_axes, place_legend
from plot.systems import Look

LOOKS = {
    "recompute": Look("Recomputation", "#0072B2", "o"),
    "swap": Look("Swapping", "#D55E00", "D"),
}
COST_LOOKS = {
    "recompute_s": Look("Recompute", "#0072B2", "o"),
    "swap_both_s": Look("Swap out and in", "#D55E00", "D"),
    "swap_in_s": Look("Swap in or out", "#D55E00", "s", "--"),
}


def draw_preemption_costs(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Time to recompute a sequence and to swap it; computed from the profile, not run."""
    del tables
    setup = figure.claims[0].args
    length, device = setup["context_len"], setup["device_profile"]
    title = f"{length} tokens on {device}, beside {TYPICAL_BATCH} decoding sequences"
    return draw_costs(preemption_costs(**setup), title=title)


def draw_costs(costs: pd.DataFrame, *, title: str) -> Canvas:
    """Draw columns block_size, recompute_s, swap_out_s and swap_in_s, however they were found."""
    costs = costs.assign(swap_both_s=costs["swap_out_s"] + costs["swap_in_s"])
    canvas, axes = new_axes(1, (3.5, 2.5))
    ax = axes[0][0]
    places = range(len(costs))
    for column, look in COST_LOOKS.items():
        look.draw(ax, places, 1e3 * costs[column])
    ax.set_xticks(list(places), [str(size) for size in costs["block_size"]])
    ax.set_xlabel("Block size (tokens)")
    ax.set_ylabel("Time (ms)")
    ax.set_ylim(0, None)
    ax.set_title(title)
    place_legend(canvas, [look.handle() for look in COST_LOOKS.values()])
    return canvas
