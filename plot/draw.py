"""Draw figures by name: read the tables, call the figure's drawer, write PDF and PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure as Canvas

from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.model import Figure
from bench.experiments.tables import Choice, PanelTable, Searched, load_panel
from bench.files import write_file
from bench.results.measurements import Measurement
from bench.results.store import Store
from engines.core.errors import UserError
from plot.batch_size import draw_batch_size
from plot.batched import draw_batched
from plot.block_sizes import draw_block_sizes, draw_preemption_latency
from plot.kernels import draw_kernel_latency, draw_measured_costs, measured_footer
from plot.kv_memory import draw_kv_memory
from plot.latency import draw_latency
from plot.layout import finish
from plot.lengths import draw_lengths
from plot.preemption import draw_preemption_costs
from plot.sharing import draw_sharing
from plot.summary import footer, gaps

QUICK = "QUICK RUN: short traces, fewer rates; shows that all works, and decides nothing"
STYLE = Path(__file__).with_name("paper.mplstyle")
PLAIN_TEXT = {"text.parse_math": False}  # names of devices and models are no formulas

Searches = Callable[[str], Mapping[str, Searched]]  # what was found by bisection, by panel

DRAWERS: dict[str, Callable[[Figure, Sequence[PanelTable]], Canvas]] = {
    "kv-memory": draw_kv_memory,
    "normalized-latency": draw_latency,
    "batched-requests": draw_batched,
    "batch-size": draw_batch_size,
    "lengths": draw_lengths,
    "sharing": draw_sharing,
    "block-sizes": draw_block_sizes,
    "preemption-costs": draw_preemption_costs,
    "preemption-latency": draw_preemption_latency,
}
# By microbenchmark: figures that were measured rather than made of points.
MEASURED_DRAWERS: dict[str, Callable[[Measurement], Canvas]] = {
    "attention": draw_kernel_latency,
    "recovery": draw_measured_costs,
}
# No dates and no versions: equal tables give equal files.
METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def draw(
    name: str,
    store: Store,
    out_dir: Path,
    choice: Choice | None = None,
    *,
    searched: Searches | None = None,
) -> list[Path]:
    """Draw everything that `name` stands for; returns the files written, PDF and PNG of each.

    `choice` says which of the possible results are meant. `searched` gives what was found by
    bisection of a panel's systems: ratios then rest on that, and curves have its points. Figures
    without results are left out. Raises UserError for an unknown name, when there is nothing at all
    to draw, and for corrupt results, which are named and never drawn.
    """
    choice = choice or Choice()
    with style.context([STYLE, PLAIN_TEXT]):
        figures = registry.find(name).figures
        composed = {f.name: _compose(f, store, choice, searched) for f in figures}
        canvases = {figure: canvas for figure, canvas in composed.items() if canvas is not None}
        if not canvases:
            raise UserError(
                f"no results of '{name}' with backend {choice.backend}: "
                f"run '{choice.command(name)}' first"
            )
        return [
            save(canvas, out_dir / f"{figure}.{kind}")
            for figure, canvas in canvases.items()
            for kind in METADATA
        ]


def _compose(
    figure: Figure, store: Store, choice: Choice, searched: Searches | None
) -> Canvas | None:
    """Draw a figure's results; None if there are none. Raises UserError for corrupt ones."""
    if figure.is_measured(choice.backend):
        found = store.kernels(figure.microbenchmark, backend=choice.backend)
        if found is None:
            return None
        canvas = MEASURED_DRAWERS[figure.microbenchmark](found)
        finish(canvas, footer=measured_footer(found))
        return canvas
    tables = [load_panel(store, panel, choice) for panel in figure.panels]
    if searched is not None and figure.plot == "normalized-latency":
        tables = [replace(table, searched=searched(table.panel.name)) for table in tables]
    _refuse_corrupt(tables, choice)
    if figure.panels and all(table.sound.empty for table in tables):
        return None
    canvas = DRAWERS[figure.plot](figure, tables)
    cautions = [QUICK] if tables and choice.effort is Effort.QUICK else []
    below = footer(figure, tables, choice.backend)
    finish(canvas, footer=below, gaps=[*cautions, *gaps(tables)])
    return canvas


def save(canvas: Canvas, path: Path) -> Path:
    """Write a figure as .pdf or .png, by the path's suffix; returns the path."""
    content, kind = io.BytesIO(), path.suffix[1:]
    canvas.savefig(content, format=kind, metadata=METADATA[kind])
    write_file(path, content.getvalue())
    return path


def _refuse_corrupt(tables: Iterable[PanelTable], choice: Choice) -> None:
    for table in tables:
        for row in table.frame[table.frame["state"] == "corrupt"].itertuples():
            raise UserError(
                f"result of {row.system} at {row.rate:g} req/s in {table.panel.name} is corrupt "
                f"({row.reason}): run '{choice.command(table.panel.name)}' again"
            )
