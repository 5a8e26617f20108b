"""Ratios of capacities from finished searches, for the claims about sustained rates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.claims.capacity_search import Found, ResultStore, Search, stored_search
from bench.claims.intervals import Mean, geometric_mean
from bench.claims.measures import Measurement
from bench.experiments import registry
from bench.experiments.capacity import Estimate
from bench.experiments.model import Claim, Selection
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec

RATIO_MEASURES = ("capacity_ratio", "largest_capacity_ratio")


@dataclass(frozen=True)
class Pair:
    """Two systems of one panel whose capacities a claim compares."""

    panel: str
    over: str
    under: str


@dataclass(frozen=True)
class Ratio:
    """The ratio for each seed, which gives both systems the same trace, and their mean."""

    pair: Pair
    over: Found
    under: Found

    @property
    def by_seed(self) -> dict[int, float]:
        """The ratio of the two capacities, for the seeds that both have."""
        return {
            seed: bracket.capacity / self.under.brackets[seed].capacity
            for seed, bracket in self.over.brackets.items()
            if seed in self.under.brackets
        }

    @property
    def mean(self) -> Mean:
        """The geometric mean over seeds."""
        return geometric_mean(list(self.by_seed.values()))


def pairs_of(claim: Claim) -> tuple[Pair, ...]:
    """The pairs behind a claim; none unless it is about a ratio of capacities."""
    if claim.measure not in RATIO_MEASURES:
        return ()
    panels = claim.args.get("panels") or (claim.args["panel"],)
    return tuple(Pair(panel, claim.args["over"], claim.args["under"]) for panel in panels)


def pairs_in(selection: Selection) -> list[Pair]:
    """The pairs behind the claims of figures; of a part of a figure, those within the part."""
    chosen = {panel.name for panel in selection.panels}
    whole = {figure.name for figure in selection.figures if figure.name in registry.FIGURES}
    found = [
        pair
        for figure in selection.figures
        for claim in figure.claims
        for pair in pairs_of(claim)
        if figure.name in whole or pair.panel in chosen
    ]
    return list(dict.fromkeys(found))


def search_of(panel_name: str, system: str, choice: Choice) -> Search:
    """What is searched for a system's curve: its settings, first among the rates of the figure."""
    panel = registry.find_panel(panel_name)
    found = [curve for curve in choice.panel(panel).curves if curve.system == system]
    assert len(found) == 1, f"panel {panel_name} has {len(found)} curves of {system}"
    spec = next(spec for spec in choice.points(panel) if spec.system == system)
    return Search(spec, found[0].all_rates)


class StoredSearches:
    """The finished searches of a store under one choice, each repeated once."""

    def __init__(self, store: ResultStore, choice: Choice) -> None:
        self._store = store
        self._choice = choice
        self._found: dict[tuple[str, str], Found | None] = {}

    def of(self, panel: str, system: str) -> Found | None:
        """The search for a system's curve; None where it is not finished."""
        if (panel, system) not in self._found:
            wanted = search_of(panel, system, self._choice)
            self._found[panel, system] = stored_search(self._store, wanted)
        return self._found[panel, system]

    def ratio(self, pair: Pair) -> Ratio | None:
        """The ratio of a pair; None unless both searches are finished for some seed."""
        over = self.of(pair.panel, pair.over)
        under = self.of(pair.panel, pair.under)
        if over is None or under is None:
            return None
        ratio = Ratio(pair, over, under)
        return ratio if ratio.by_seed else None

    def measure(self, claim: Claim) -> Measurement | None:
        """The claim's number; None unless every search behind it is finished."""
        return measure_searched([self.ratio(pair) for pair in pairs_of(claim)])

    @property
    def specs(self) -> list[PointSpec]:
        """The points behind all searches asked for so far."""
        known = [found for found in self._found.values() if found is not None]
        return list(dict.fromkeys(spec for found in known for spec in found.specs))


def measure_searched(ratios: Iterable[Ratio | None]) -> Measurement | None:
    """The largest of the ratios as a claim's measurement; None unless every one is known."""
    known = list(ratios)
    complete = [ratio for ratio in known if ratio is not None]
    if not complete or len(complete) < len(known):
        return None
    largest = max(complete, key=lambda ratio: ratio.mean.value)
    sides = [side for ratio in complete for side in (ratio.over, ratio.under)]
    return Measurement(
        Estimate(largest.mean.value),
        num_points=sum(len(side.specs) for side in sides),
        devices=tuple(dict.fromkeys(name for side in sides for name in side.devices)),
        seeds=tuple(largest.by_seed),
        stale=any(side.stale for side in sides),
        interval=largest.mean.interval,
        method="searched",
    )
