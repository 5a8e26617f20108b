"""The points behind the claims: where each lies, panel by panel, for the page to link to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.claims.evidence import Evidence
from bench.claims.searches import Found, probe_spec
from bench.claims.verdicts import Row
from bench.experiments import registry
from bench.experiments.model import Figure
from bench.experiments.tables import PanelTable
from bench.point.spec import PointSpec


@dataclass(frozen=True)
class CurvePlaces:
    """The sound points of a curve; `ends` are those between which a search ended, by seed."""

    name: str
    points: tuple[PointSpec, ...]
    ends: tuple[tuple[int, PointSpec, PointSpec], ...] = ()


@dataclass(frozen=True)
class PanelPlaces:
    """The points of a panel that has been run at least in part."""

    table: PanelTable
    curves: tuple[CurvePlaces, ...]


def places(evidence: Evidence, figure: Figure) -> tuple[PanelPlaces, ...]:
    """The points of a figure's panels."""
    tables = [evidence.panel(panel.name) for panel in figure.panels]
    return tuple(
        PanelPlaces(
            table, tuple(_curves(evidence, table, searched=figure.plot == "normalized-latency"))
        )
        for table in tables
        if not table.sound.empty
    )


def _curves(evidence: Evidence, table: PanelTable, *, searched: bool) -> Iterator[CurvePlaces]:
    for index, curve in enumerate(table.panel.curves):
        sound = set(table.sound.loc[table.sound["curve"] == index, "digest"])
        found = evidence.search(table.panel.name, curve.system) if searched else None
        yield CurvePlaces(
            name=curve.label or curve.system,
            points=tuple(spec for spec in table.specs if spec.digest in sound),
            ends=() if found is None else tuple(_ends(found)),
        )


def _ends(found: Found) -> Iterator[tuple[int, PointSpec, PointSpec]]:
    for seed, bracket in found.brackets.items():
        rates = (bracket.sustained, bracket.exceeded)
        sustained, exceeded = (probe_spec(found.spec, seed, rate) for rate in rates)
        yield seed, sustained, exceeded


def panels_of(row: Row) -> list[str]:
    """The panels whose points a row of the verdict table rests on."""
    figure = registry.FIGURES.get(row["figure"])
    claims = registry.TABLE1_CLAIMS if figure is None else figure.claims
    args = next((claim.args for claim in claims if claim.text == row["claim"]), {})
    return [*args.get("panels", ()), *([args["panel"]] if args.get("panel") else [])]
