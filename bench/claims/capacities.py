"""The capacity table: one row a curve, off the figure's rates and by bisection."""

from __future__ import annotations

from dataclasses import dataclass

from bench.claims.evidence import Evidence
from bench.claims.intervals import Mean
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.tables import PanelTable


@dataclass(frozen=True)
class CurveCapacity:
    """Capacity of one curve; `ratio` is Astra's over it, where both curves are complete.

    `searched` is the capacity by bisection, as a mean over seeds.
    """

    panel: str
    title: str
    system: str
    capacity: Estimate | None
    ratio: Estimate | None
    num_sound: int
    num_points: int
    searched: Mean | None = None


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
    system = table.panel.curves[index].system
    own, astra = table.capacity(index), table.capacity(table.curve_of("astra"))
    complete = not set(table.absent["system"]) & {"astra", system}
    known = complete and astra is not None and own is not None and system != "astra"
    points = table.curve(index)
    searched = evidence.search(table.panel.name, system)
    return CurveCapacity(
        panel=table.panel.name,
        title=table.panel.title,
        system=system,
        capacity=own,
        ratio=astra.over(own) if known and astra and own else None,
        num_sound=int(points["digest"].isin(table.sound["digest"]).sum()),
        num_points=len(points),
        searched=None if searched is None else searched.mean,
    )
