"""Memory and throughput against the number of requests in a batch: Figure 1, right."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure as Canvas

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from bench.point.platform import simulate
from engines.core.models import ModelSpec
from plot.layout import new_axes, place_legend, say_no_results, set_title
from plot.systems import EDGE, SYSTEMS, in_order

GB = 1e9
BATCHED, USED, THROUGHPUT = "mean_running_requests", "kv_used_pct", "throughput_tok_s"


def draw_batch_size(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Left the memory that weights and cache take, right the tokens per second."""
    del figure
    (table,) = tables
    spec = table.specs[0]
    server = simulate(spec)
    model, num_slots = server.model, spec.kv_slots or server.default_slots()
    canvas, axes = new_axes(2, (5.4, 2.3))
    memory, throughput = axes[0]
    looks = {name: SYSTEMS[name] for name in in_order(c.system for c in table.panel.curves)}
    columns = ["system", BATCHED, USED, THROUGHPUT]
    shown = table.sound.reindex(columns=columns).sort_values(BATCHED)
    for system, look in looks.items():
        rows = shown[shown["system"] == system]
        look.draw(memory, rows[BATCHED], memory_gb(rows, model, num_slots), **EDGE)
        look.draw(throughput, rows[BATCHED], rows[THROUGHPUT], **EDGE)
    weights_gb = model.num_parameters * model.dtype_bytes / GB
    memory.axhline(weights_gb, color="#999999", linestyle=":", linewidth=0.9)
    memory.annotate(
        "parameters",
        (1, weights_gb),
        (-2, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        xycoords=("axes fraction", "data"),
        color="#666666",
        fontsize=6,
    )
    memory.set_ylabel("Memory (GB)")
    memory.set_ylim(0, 42)
    throughput.set_ylabel("Throughput (tokens/s)")
    throughput.set_ylim(0, None)
    for index, (ax, what) in enumerate(((memory, "Memory in use"), (throughput, "Throughput"))):
        ax.set_xlim(0, None)
        ax.set_xlabel("Batch size (mean running requests)")
        set_title(ax, what, index, of=2)
        if shown[BATCHED].isna().all():
            say_no_results(ax)
    place_legend(canvas, [look.handle() for look in looks.values()])
    return canvas


def memory_gb(rows: pd.DataFrame, model: ModelSpec, num_slots: int) -> pd.Series[float]:
    """Gigabytes of the weights and of the cache's slots that are in use."""
    slots = num_slots * rows[USED] / 100
    weights = model.num_parameters * model.dtype_bytes
    return (weights + slots * model.kv_bytes_per_token) / GB
