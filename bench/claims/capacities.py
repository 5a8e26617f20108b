"""The capacity table: one row a curve."""

from __future__ import annotations

from dataclasses import dataclass

from bench.claims.evidence import Evidence
from bench.claims.measures import capacity_ratio
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.tables import PanelTable


@dataclass(frozen=True)
class CurveCapacity:
    """Capacity of one curve: by bisection where it was searched, else off the figure's rates.

    `interval` is the 95 % interval over `seeds` of a search, which are 0 off the curve. `ratio` is
    Astra's capacity over it, where both were found in one way and both curves are complete. `paper`
    is what the paper's figure shows of it.
    """

    panel: str
    title: str
    system: str
    capacity: Estimate | None
    ratio: Estimate | None
    num_sound: int
    num_points: int
    interval: tuple[float, float] | None = None
    seeds: int = 0
    paper: str = ""


def capacity_table(evidence: Evidence) -> tuple[CurveCapacity, ...]:
    """The capacity of every curve of latency that has been run."""
    panels = [
        evidence.panel(panel.name)
        for figure in registry.FIGURES.values()
        if figure.plot == "normalized-latency"
        for panel in figure.panels
    ]
    return tuple(
        _curve_capacity(evidence, table, index)
        for table in panels
        if not table.sound.empty
        for index in range(len(table.panel.curves))
    )


def _curve_capacity(evidence: Evidence, table: PanelTable, index: int) -> CurveCapacity:
    curve = table.panel.curves[index]
    points = table.curve(index)
    searched = evidence.search(table.panel.name, curve.system)
    mean = None if searched is None else searched.mean
    ratio = None
    if curve.system != "astra":
        names = {"over": "astra", "under": curve.system, "panel": table.panel.name}
        ratio = capacity_ratio(evidence, **names).estimate
    return CurveCapacity(
        panel=table.panel.name,
        title=table.panel.title,
        system=curve.system,
        capacity=table.capacity(index) if mean is None else Estimate(mean.value),
        ratio=ratio,
        num_sound=int(points["digest"].isin(table.sound["digest"]).sum()),
        num_points=len(points),
        interval=None if mean is None else mean.interval,
        seeds=0 if mean is None else mean.count,
        paper=curve.paper,
    )
