"""Every figure of the paper, and the names under which it can be run, drawn and judged."""

from __future__ import annotations

from collections.abc import Iterable

from bench.experiments.fig01_fig11 import FIG1, FIG11
from bench.experiments.fig02 import FIG2
from bench.experiments.fig12 import FIG12
from bench.experiments.fig13 import FIG13
from bench.experiments.fig14_fig15 import FIG14, FIG15
from bench.experiments.fig16_fig17 import FIG16, FIG17
from bench.experiments.fig18_fig19 import FIG18A, FIG18B, FIG19A, FIG19B
from bench.experiments.fig_common import SERVERS, paper_number
from bench.experiments.model import Calibration, Claim, Figure, Panel, Selection
from engines.core.errors import unknown_name

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        FIG1,
        FIG2,
        FIG11,
        FIG12,
        FIG13,
        FIG14,
        FIG15,
        FIG16,
        FIG17,
        FIG18A,
        FIG18B,
        FIG19A,
        FIG19B,
    )
}

# Parts of a figure under names of their own: figure, and what its panels' names start with.
PARTS: dict[str, tuple[str, str]] = {
    "fig12-13b": ("fig12", "fig12-13b-"),
    "fig12-66b": ("fig12", "fig12-66b-"),
    "fig12-175b": ("fig12", "fig12-175b-"),
    "fig14-parallel": ("fig14", "fig14-n"),
    "fig14-beam": ("fig14", "fig14-beam"),
    "fig15-alpaca": ("fig15", "fig15-alpaca-"),
    "fig15-sharegpt": ("fig15", "fig15-sharegpt-"),
}

# Several figures, whole or in part, under one name. `all-main` is the paper's main comparison.
GROUPS: dict[str, tuple[str, ...]] = {
    "fig18": ("fig18-a", "fig18-b"),
    "fig19": ("fig19-a", "fig19-b"),
    "all-main": ("fig12-13b", "fig14"),
    "all": tuple(FIGURES),
}

# Claims about memory by shape: they need no run.
TABLE1_CLAIMS: tuple[Claim, ...] = tuple(
    Claim(
        path=f"table1:kv_slots:{model}",
        text=f"KV slots from memory by the original's rule, {model}",
        paper=paper_number(f"table1:kv_slots:{model}"),
        tolerance=tolerance,
        kind="relative",
        measure="kv_slots",
        args=SERVERS[model],
        unit="tokens",
    )
    for model, tolerance in (("opt-13b", 0.03), ("opt-66b", 0.05), ("opt-175b", 0.05))
)

PROFILES = "device profiles a100-40gb and a100-80gb"

CALIBRATIONS: tuple[Calibration, ...] = (
    Calibration(
        "group_overhead_s + draw_overhead_s",
        PROFILES,
        "mean batched requests of Astra, ShareGPT at 2 req/s (Fig. 13)",
        "fig13:sharegpt@2.0:astra",
    ),
    Calibration(
        "group_overhead_s + draw_overhead_s",
        PROFILES,
        "mean batched requests of Astra, Alpaca at 30 req/s (Fig. 13)",
        "fig13:alpaca@30:astra",
    ),
    Calibration(
        "worker_overhead_s",
        PROFILES,
        "the last rate that the original serves Astra with, OPT-175B, ShareGPT: 3 req/s (Fig. 12)",
        "fig12",
    ),
    Calibration(
        "sequence_overhead_s",
        PROFILES,
        "the last rates that the original serves with one, two, four and six outputs (Fig. 14)",
        "fig14",
    ),
    Calibration(
        "beam_overhead_s",
        PROFILES,
        "the last rates that the original serves Astra with, beams against parallel (Fig. 14)",
        "fig14",
    ),
    Calibration(
        "copy_latency_s",
        PROFILES,
        "the last rates that the original serves Orca (Pow2) with, likewise (Fig. 14)",
        "fig14",
    ),
    Calibration(
        "random stream of the shipped lengths",
        "workload sharegpt, seed 0, without real lengths",
        "the trace of the original artifact, and Orca's shares in Fig. 2",
        "fig2:orca",
    ),
    Calibration(
        "random stream of the shipped lengths",
        "workload sharegpt, seed 0, without real lengths",
        "the same trace, and Orca's batched requests in Fig. 13",
        "fig13:sharegpt@2.0:orca",
    ),
    Calibration(
        "sigma of the output lengths",
        "workload alpaca",
        "mean batched requests of Orca (Oracle), Alpaca at 30 req/s (Fig. 13)",
        "fig13:alpaca@30:orca-oracle",
    ),
    Calibration(
        "novelty of the process that beams follow",
        "the simulation's beam search",
        "blocks saved by sharing, Alpaca, beam width 6 (Fig. 15)",
        "fig15:alpaca:beam6",
    ),
)


def names() -> list[str]:
    """Every name that `find` knows: groups and figures first, then parts and panels."""
    panels = [panel.name for figure in FIGURES.values() for panel in figure.panels]
    return list(dict.fromkeys([*GROUPS, *FIGURES, *PARTS, *panels]))


def find(name: str) -> Selection:
    """What `name` stands for: a figure, a part of one, a panel or a group of figures.

    Raises UserError naming the nearest names if there is none.
    """
    found = [_part(member) for member in GROUPS.get(name, (name,))]
    figures = [figure for figure in found if figure is not None]
    if len(figures) < len(found):
        raise unknown_name("figure", name, names())
    return _select(name, figures)


def find_panel(name: str) -> Panel:
    """The panel called `name`, which must exist."""
    found = [panel for f in FIGURES.values() for panel in f.panels if panel.name == name]
    assert len(found) == 1, f"{len(found)} panels are called '{name}'"
    return found[0]


def _part(name: str) -> Figure | None:
    if name in FIGURES:
        return FIGURES[name]
    if name in PARTS:
        figure_name, prefix = PARTS[name]
        figure = FIGURES[figure_name]
        chosen = tuple(panel for panel in figure.panels if panel.name.startswith(prefix))
        return figure.restrict(name, chosen)
    for figure in FIGURES.values():
        for panel in figure.panels:
            if panel.name == name:
                return figure.restrict(name, (panel,))
    return None


def _select(name: str, figures: Iterable[Figure]) -> Selection:
    chosen = tuple(figures)
    return Selection(
        name,
        tuple(figure for figure in chosen if not figure.pending),
        {figure.name: figure.pending for figure in chosen if figure.pending},
    )
