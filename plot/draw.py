"""Draw figures by name: read the tables, call the figure's drawer, write PDF and PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure as Canvas

from bench.experiments import registry
from bench.experiments.model import Figure
from bench.experiments.tables import Choice, PanelTable, PointStore, load_panel
from engines.core.errors import UserError
from plot.batch_size import draw_batch_size
from plot.batched import draw_batched
from plot.block_sizes import draw_block_sizes, draw_preemption_latency
from plot.kv_memory import draw_kv_memory
from plot.latency import draw_latency
from plot.layout import finish
from plot.lengths import draw_lengths
from plot.preemption import draw_preemption_costs
from plot.sharing import draw_sharing
from plot.summary import footer, gaps

STYLE = Path(__file__).with_name("paper.mplstyle")

Drawer = Callable[[Figure, Sequence[PanelTable]], Canvas]
DRAWERS: dict[str, Drawer] = {
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
# No dates and no versions: equal tables give equal files.
METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def draw(
    name: str,
    store: PointStore,
    out_dir: Path,
    choice: Choice | None = None,
) -> list[Path]:
    """Draw everything that `name` stands for; returns the files written, PDF and PNG of each.

    `choice` says which of the possible results are meant. Figures of
    which there is no result are left out. Raises UserError for an unknown name, when there is
    nothing at all to draw, and for corrupt results, which are named and never drawn.
    """
    selection = registry.find(name)
    selection.require_runnable()
    choice = choice or Choice()
    loaded = [
        (figure, [load_panel(store, panel, choice) for panel in figure.panels])
        for figure in selection.figures
        if figure.plot
    ]
    _refuse_corrupt(table for _, tables in loaded for table in tables)
    drawn = [
        (figure, tables)
        for figure, tables in loaded
        if not figure.panels or any(not table.sound.empty for table in tables)
    ]
    if not drawn:
        raise UserError(
            f"no results of '{name}' with backend {choice.backend}: run 'bench figure "
            f"{' '.join([name, '--backend', choice.backend, *choice.effort.options])}' first"
        )
    return [
        path
        for figure, tables in drawn
        for path in draw_figure(figure, tables, out_dir, choice.backend)
    ]


def draw_figure(
    figure: Figure, tables: Sequence[PanelTable], out_dir: Path, backend: str
) -> list[Path]:
    """Draw one figure from its tables and write `<name>.pdf` and `<name>.png`."""
    with style.context(STYLE):
        canvas = DRAWERS[figure.plot](figure, tables)
        finish(canvas, footer=footer(tables, backend), gaps=gaps(tables))
        return [_save(canvas, out_dir / f"{figure.name}.{kind}", kind) for kind in METADATA]


def _save(canvas: Canvas, path: Path, kind: str) -> Path:
    content = io.BytesIO()
    canvas.savefig(content, format=kind, metadata=METADATA[kind])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    return path


def _refuse_corrupt(tables: Iterable[PanelTable]) -> None:
    for table in tables:
        for row in table.frame[table.frame["state"] == "corrupt"].itertuples():
            raise UserError(
                f"result of {row.system} at {row.rate:g} req/s in {table.panel.name} is corrupt "
                f"({row.reason}): run 'bench figure {table.panel.name}' again"
            )
