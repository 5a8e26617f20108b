"""Input and output lengths of the two datasets: Figure 11."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from bench.experiments.computed import drawn_workload, length_shares
from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from bench.workloads.assumed import ALPACA_INPUT_MEAN, ALPACA_OUTPUT_MEAN
from plot.layout import new_axes, place_legend, set_title

INPUT_COLOUR, OUTPUT_COLOUR = "#0072B2", "#E69F00"
SHOWN = {"sharegpt": ("ShareGPT", 2000.0), "alpaca": ("Alpaca", 300.0)}
BINS = 40
PAPER_MEANS = {  # tokens, Figure 11
    ("sharegpt", "input"): 161.31,
    ("sharegpt", "output"): 337.99,
    ("alpaca", "input"): ALPACA_INPUT_MEAN.value,
    ("alpaca", "output"): ALPACA_OUTPUT_MEAN.value,
}


def draw_lengths(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """One histogram of inputs and outputs for each dataset, their means marked."""
    del figure, tables
    canvas, axes = new_axes(len(SHOWN), (5.4, 2.2))
    for index, (name, (title, longest)) in enumerate(SHOWN.items()):
        ax = axes[0][index]
        workload = drawn_workload(name)
        edges = np.linspace(0.0, longest, BINS + 1)
        parts = (
            ("input", workload.input_len, INPUT_COLOUR),
            ("output", workload.output_len, OUTPUT_COLOUR),
        )
        for place, (word, lengths, colour) in enumerate(parts):
            shares = length_shares(lengths, edges)
            ax.stairs(shares, edges, color=colour, fill=True, alpha=0.45, linewidth=0)
            ax.stairs(shares, edges, color=colour, linewidth=0.9)
            mean = float(lengths.mean())
            ax.axvline(mean, color=colour, linestyle="--", linewidth=0.9)
            ax.text(
                0.97,
                0.92 - 0.11 * place,
                f"mean {word} {mean:.1f} (paper {PAPER_MEANS[name, word]:.1f})",
                transform=ax.transAxes,
                ha="right",
                fontsize=6.5,
            )
        ax.set_xlim(0, longest)
        ax.set_ylim(0, None)
        ax.set_xlabel("Tokens")
        set_title(ax, title, index, of=len(SHOWN))
    axes[0][0].set_ylabel("Requests (%)")
    legend = [Patch(color=INPUT_COLOUR, label="Input"), Patch(color=OUTPUT_COLOUR, label="Output")]
    place_legend(canvas, legend)
    return canvas
