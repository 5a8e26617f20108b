"""Memory and throughput against the number of requests in a batch: Figure 1, right."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from bench.point.spec import PointSpec
from engines.core.config import ModelSpec, find_model
from engines.sim.profile import load_profile
from engines.sim.slots import default_slots, paper_server
from plot.layout import panel_letter, place_legend, say_no_results
from plot.summary import with_columns
from plot.systems import in_order, style_of

GB = 1e9
BATCHED, USED, THROUGHPUT = "mean_running_requests", "kv_used_pct", "throughput_tok_s"


def draw_batch_size(figure: Figure, tables: Sequence[PanelTable]) -> Canvas:
    """Left the memory that weights and cache take, right the tokens per second."""
    del figure
    (table,) = tables
    spec = table.specs[0]
    model = find_model(spec.model)
    num_slots = spec.kv_slots or _default_slots(spec)
    canvas = Canvas(figsize=(5.4, 2.3), layout="constrained")
    memory, throughput = canvas.subplots(1, 2)
    systems = in_order({curve.system for curve in table.panel.curves})
    shown = with_columns(table.sound, [BATCHED, USED, THROUGHPUT]).sort_values(BATCHED)
    for system in systems:
        rows = shown[shown["system"] == system]
        _draw_line(memory, system, rows, memory_gb(rows, model, num_slots))
        _draw_line(throughput, system, rows, rows[THROUGHPUT])
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
        ax.set_title(f"{panel_letter(index)}{what}")
        if shown[BATCHED].isna().all():
            say_no_results(ax)
    place_legend(canvas, [_handle(system) for system in systems])
    return canvas


def memory_gb(rows: pd.DataFrame, model: ModelSpec, num_slots: int) -> pd.Series[float]:
    """Gigabytes of the weights and of the cache's slots that are in use."""
    slots = num_slots * rows[USED] / 100
    weights = model.num_parameters * model.dtype_bytes
    return (weights + slots * model.kv_bytes_per_token) / GB


def _default_slots(spec: PointSpec) -> int:
    profile, degree = paper_server(find_model(spec.model))
    return default_slots(
        find_model(spec.model),
        load_profile(spec.device_profile or profile),
        spec.tensor_parallel or degree,
    )


def _draw_line(ax: Axes, system: str, rows: pd.DataFrame, values: pd.Series[float]) -> None:
    style = style_of(system)
    ax.plot(
        rows[BATCHED],
        values,
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )


def _handle(system: str) -> Line2D:
    style = style_of(system)
    return Line2D(
        [], [], color=style.colour, marker=style.marker, linestyle=style.line, label=style.label
    )
