"""The report: every claim of the paper beside our number, and what stands behind it.

It is a function of the result tables alone: equal results give equal reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.claims import counts, verdicts
from bench.claims.capacities import CurveCapacity, capacity_table
from bench.claims.comparison import Comparison, compare
from bench.claims.evidence import Evidence
from bench.claims.measures import describe_absent
from bench.experiments import registry
from bench.experiments.model import Figure
from bench.experiments.tables import COMPLETE, Choice
from bench.report.points import PanelPlaces, places
from bench.report.provenance import Summary, summarize
from bench.results.store import Store
from bench.validation.record import Found, find_validations


@dataclass(frozen=True)
class FigureProgress:
    """How much of a figure has been run, and the time of its points one after another."""

    num_sound: int
    num_points: int
    busy_s: float


@dataclass(frozen=True)
class Report:
    """The verdict table and what stands behind it. `problems` name points that do not count,
    `places` says where those of a figure lie.
    """

    choice: Choice
    verdicts: pd.DataFrame
    capacities: tuple[CurveCapacity, ...]
    problems: tuple[str, ...]
    pending: Mapping[str, str]
    summary: Summary
    progress: Mapping[str, FigureProgress]
    places: Mapping[str, tuple[PanelPlaces, ...]]
    reference: Comparison | None = None
    validations: tuple[Found, ...] = ()

    @property
    def headline(self) -> str:
        """The result in one line."""
        return counts.headline(verdicts.records(self.verdicts))


def build_report(store: Store, choice: Choice, *, reference: Path | None = None) -> Report:
    """Judge every claim from whatever results of this choice exist.

    `reference` is a directory of reference results to compare with.
    """
    evidence = Evidence(store, choice)
    found, capacities = verdicts.table(evidence), capacity_table(evidence)
    return Report(
        choice=choice,
        verdicts=found,
        capacities=capacities,
        problems=_problems(evidence),
        pending=evidence.pending,
        summary=summarize(store, evidence.specs),
        progress={name: _progress(evidence, f) for name, f in registry.FIGURES.items()},
        places={name: places(evidence, figure) for name, figure in registry.FIGURES.items()},
        reference=None if reference is None else compare(store, reference, choice),
        validations=tuple(find_validations(store.root)),
    )


def _progress(evidence: Evidence, figure: Figure) -> FigureProgress:
    tables = [evidence.panel(panel.name) for panel in figure.panels]
    return FigureProgress(
        num_sound=sum(len(table.sound) for table in tables),
        num_points=sum(len(table.frame) for table in tables),
        busy_s=sum(
            float(table.sound["wall_s"].sum()) for table in tables if "wall_s" in table.sound
        ),
    )


def _problems(evidence: Evidence) -> tuple[str, ...]:
    """Every corrupt or stale point, and every missing one of a panel that has been run."""
    lines = []
    for name, table in evidence.panels.items():
        rows = table.frame.assign(panel=name)
        counted = rows["state"] == "corrupt" if table.sound.empty else rows["state"] != COMPLETE
        lines += [describe_absent(row) for _, row in rows[counted].iterrows()]
    return tuple(lines)
