"""Measured kernels: latency of attention (Figure 18a), and of bringing back a sequence (19a)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from bench.results.measurements import Measurement
from plot.layout import new_axes, place_legend, set_title, write_above
from plot.preemption import draw_costs
from plot.summary import BACKEND_WORDS
from plot.systems import SYSTEMS

LOOKS = {
    "paged": replace(SYSTEMS["astra"], label="Paged (Astra)"),
    "contiguous": replace(SYSTEMS["ft"], label="Contiguous (FasterTransformer's layout)"),
}


def draw_kernel_latency(found: Measurement) -> Canvas:
    """Latency against the context for each batch size; over the points, paged over contiguous."""
    rows, ratios = pd.DataFrame(found["attention"]), pd.DataFrame(found["ratios"])
    batches = sorted(rows["batch_size"].unique())
    canvas, axes = new_axes(len(batches), (2.6 * len(batches) + 0.3, 2.4))
    for index, (ax, batch) in enumerate(zip(axes[0], batches, strict=True)):
        _draw_batch(ax, rows[rows["batch_size"] == batch], ratios[ratios["batch_size"] == batch])
        set_title(ax, f"Batch size {batch}", index, of=len(batches))
    axes[0][0].set_ylabel("Kernel latency (µs)")
    place_legend(canvas, [look.handle() for look in LOOKS.values()])
    return canvas


def _draw_batch(ax: Axes, rows: Any, ratios: Any) -> None:
    contexts = sorted(rows["context_len"].unique())
    places = range(len(contexts))
    top: dict[int, float] = {}
    for kind, look in LOOKS.items():
        line = rows[rows["kind"] == kind].set_index("context_len").loc[contexts]
        middle, low, high = (1e6 * line[name] for name in ("latency_s", "p25_s", "p75_s"))
        ax.errorbar(
            places,
            middle,
            yerr=[middle - low, high - middle],
            elinewidth=0.7,
            capsize=1.5,
            **look.style,
        )
        top = {c: max(top.get(c, 0.0), value) for c, value in high.items()}
    for place, context in zip(places, contexts, strict=True):
        ratio = ratios.set_index("context_len").loc[context, "paged_over_contiguous"]
        colour = LOOKS["paged"].colour
        write_above(ax, place, top[context], f"{ratio:.2f}x", gap=4, fontsize=6, color=colour)
    ax.set_xticks(list(places), [str(context) for context in contexts])
    ax.set_xlabel("Context length (tokens)")
    ax.set_xlim(-0.4, len(contexts) - 0.6)
    ax.set_ylim(0, 1.18 * max(top.values()))


def draw_measured_costs(found: Measurement) -> Canvas:
    """Time to recompute a sequence and to swap it, as measured."""
    where = {"cpu": "CPU", "cuda": "GPU"}[found["backend"]]
    title = f"{found['num_tokens']} tokens, measured on this {where}"
    rows = pd.DataFrame(found["recovery"])  # Figure 19a moves each block by itself
    return draw_costs(rows[~rows["staged"]], title=title)


def measured_footer(found: Measurement) -> str:
    """The device, and what was measured how."""
    setup = found["setup"]
    spec = setup["spec"]
    parts = [
        f"{BACKEND_WORDS[found['backend']]} {found['device']}",
        f"{spec['name']}: {spec['num_heads']} heads, {spec['num_layers']} layers",
        setup["dtype"],
        f"copies {found['copy_bandwidth'] / 1e9:.3g} GB/s",
        "caches cold",
        f"medians of {setup['rounds']} rounds of {setup['samples']}",
    ]
    if found["attention"]:
        parts.append(f"block size {setup['block_size']}")
        parts.append("bars: quartiles; figures: paged over contiguous, both kernels are ours")
    return " · ".join(parts)
