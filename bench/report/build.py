"""The report: every claim of the paper beside our number, as a page, as Markdown and as JSON.

It is a function of the result tables alone: equal results give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.claims.comparison import Comparison, compare
from bench.claims.intervals import Mean
from bench.claims.measures import Measurement, Tables, describe_absent, measured_kernels
from bench.claims.searched import StoredSearches
from bench.claims.verdicts import Status, Verdict, judge
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.effort import Effort
from bench.experiments.model import Claim, Figure
from bench.experiments.tables import COMPLETE, Choice, PanelTable, load_panel
from bench.report.document import to_markdown
from bench.report.page import to_html
from bench.report.pictures import Drawing
from bench.report.provenance import ReportStore, Summary, summarize
from bench.report.terminal import print_report
from bench.report.values import to_json
from engines.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

PAGE, MARKDOWN, JSON = "index.html", "report.md", "report.json"


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


@dataclass(frozen=True)
class FigureProgress:
    """How much of a figure has been run, and the time of its points one after another."""

    num_sound: int
    num_points: int
    busy_s: float


@dataclass(frozen=True)
class Report:
    """All verdicts and what stands behind them. `problems` name points that do not count."""

    choice: Choice
    verdicts: tuple[Verdict, ...]
    capacities: tuple[CurveCapacity, ...]
    problems: tuple[str, ...]
    pending: Mapping[str, str]
    summary: Summary
    progress: Mapping[str, FigureProgress] = field(default_factory=dict)
    reference: Comparison | None = None
    files: tuple[Path, ...] = ()

    def count(self, status: Status) -> int:
        """How many verdicts have this status."""
        return sum(verdict.status is status for verdict in self.verdicts)

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """Claims that were measured and do not hold."""
        return tuple(v for v in self.verdicts if v.status is Status.FAIL)


def build_report(store: ReportStore, choice: Choice, *, searched: bool = True) -> Report:
    """Judge every claim from whatever results of this choice exist.

    Claims about sustained rates rest on finished capacity searches if `searched`, else, and where
    there are none, on the figures' curves.
    """
    tables = {
        panel.name: load_panel(store, panel, choice)
        for figure in registry.FIGURES.values()
        for panel in figure.panels
    }
    searches = StoredSearches(store, choice)
    pending = _pending(store, choice)

    def elsewhere(claim: Claim) -> Measurement | None:
        sought = searches.measure(claim) if searched else None
        return sought or measured_kernels(store, claim, backend=choice.backend)

    verdicts = _verdicts(tables, elsewhere, choice)
    capacities = _capacities(tables, searches)
    used = [table for table in tables.values() if not table.sound.empty]
    return Report(
        choice=choice,
        verdicts=_without(verdicts, pending),
        capacities=capacities,
        problems=_problems(tables),
        pending=pending,
        summary=summarize(store, used, searches.specs),
        progress={name: _progress(f, tables) for name, f in registry.FIGURES.items()},
    )


def write_report(
    store: ReportStore,
    out_dir: Path,
    *,
    choice: Choice | None = None,
    drawings: Mapping[str, Drawing] | None = None,
    reference: Path | None = None,
    console: Console | None = None,
) -> Report:
    """Write page, Markdown and JSON into `out_dir`; print a summary to `console`, if given.

    `choice` says which of the possible results are meant. `drawings` are the figures for the
    page, by name. `reference` holds reference results to compare with. Raises UserError where the
    files cannot be written.
    """
    choice = choice or Choice()
    report = build_report(store, choice)
    if reference is not None:
        report = replace(report, reference=compare(store, reference, choice))
    contents = {
        PAGE: to_html(report, drawings or {}),
        MARKDOWN: to_markdown(report),
        JSON: json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in contents.items():
        _write(out_dir / name, text)
    if console is not None:
        print_report(report, console)
    return replace(report, files=tuple(out_dir / name for name in contents))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def _progress(figure: Figure, tables: Tables) -> FigureProgress:
    frames = [tables[panel.name] for panel in figure.panels]
    return FigureProgress(
        num_sound=sum(len(table.sound) for table in frames),
        num_points=sum(len(table.frame) for table in frames),
        busy_s=sum(
            float(table.sound["wall_s"].sum()) for table in frames if "wall_s" in table.sound
        ),
    )


def _pending(store: ReportStore, choice: Choice) -> dict[str, str]:
    """Figures that cannot run, and those that nothing simulates and no device has measured."""
    reasons: dict[str, str] = {}
    for figure in registry.FIGURES.values():
        part = figure.microbenchmark if figure.only_measured else ""
        if part and store.kernels(part, backend=choice.backend) is None:
            reasons[figure.name] = (
                f"measured on a device, never simulated: run `bench figure {figure.name}`"
            )
    return reasons


def _verdicts(
    tables: Tables, elsewhere: Callable[[Claim], Measurement | None], choice: Choice
) -> tuple[Verdict, ...]:
    """Judge all claims; numbers from `elsewhere` go before those of the tables."""
    backend, quick = choice.backend, choice.effort is Effort.QUICK
    static = [judge("table1", claim, tables, backend) for claim in registry.TABLE1_CLAIMS]
    found = [
        judge(
            figure.name,
            claim,
            tables,
            backend,
            searched=elsewhere(claim),
            quick=quick,
        )
        for figure in registry.FIGURES.values()
        for claim in figure.claims
    ]
    return (*static, *found)


def _without(verdicts: Iterable[Verdict], pending: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Claims of figures that can run, and those of others that existing results decide."""
    undecided = (Status.NOT_RUN, Status.INCOMPLETE, Status.OPEN)
    return tuple(v for v in verdicts if not (v.figure in pending and v.status in undecided))


def _capacities(tables: Tables, searches: StoredSearches) -> tuple[CurveCapacity, ...]:
    return tuple(
        row
        for figure in registry.FIGURES.values()
        if figure.plot == "normalized-latency"
        for panel in figure.panels
        if not tables[panel.name].sound.empty
        for row in _panel_capacities(tables[panel.name], searches)
    )


def _panel_capacities(table: PanelTable, searches: StoredSearches) -> list[CurveCapacity]:
    curves = table.panel.curves
    known = [table.capacity(index) for index in range(len(curves))]
    astra = known[table.curve_of("astra")]
    rows = []
    for index, (curve, own) in enumerate(zip(curves, known, strict=True)):
        points = table.curve(index)
        complete = not set(table.absent["system"]) & {"astra", curve.system}
        ratio = astra.over(own) if complete and astra is not None and own is not None else None
        searched = searches.of(table.panel.name, curve.system)
        rows.append(
            CurveCapacity(
                panel=table.panel.name,
                title=table.panel.title,
                system=curve.system,
                capacity=own,
                ratio=None if curve.system == "astra" else ratio,
                num_sound=int(points["digest"].isin(table.sound["digest"]).sum()),
                num_points=len(points),
                searched=None if searched is None else searched.mean,
            )
        )
    return rows


def _problems(tables: Tables) -> tuple[str, ...]:
    """Every corrupt or stale point, and every missing one of a panel that has been run."""
    lines = []
    for name, table in tables.items():
        run = not table.sound.empty
        for _, row in table.frame.iterrows():
            if row["state"] != COMPLETE and (run or row["state"] == "corrupt"):
                lines.append(describe_absent(name, row))
    return tuple(lines)
