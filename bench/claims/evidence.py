"""What claims are measured from: panels' results, capacity searches, measured kernels."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, cached_property
from typing import NamedTuple

from bench.claims.bisection import Search
from bench.claims.searches import Found, stored_search
from bench.experiments import registry
from bench.experiments.model import Claim, Selection
from bench.experiments.tables import Choice, PanelTable, Searched, load_panel
from bench.point.spec import PointSpec
from bench.results.measurements import Measurement
from bench.results.store import Store


class Pair(NamedTuple):
    """Two systems of one panel whose capacities a claim compares."""

    panel: str
    over: str
    under: str


class Evidence:
    """The results of one choice, each part read once, when it is first asked for."""

    def __init__(self, store: Store, choice: Choice) -> None:
        self.store = store
        self.choice = choice
        self.panel = cache(self._load_panel)
        self.search = cache(self._load_search)
        self._searched: list[Found] = []

    def _load_panel(self, name: str) -> PanelTable:
        return load_panel(self.store, registry.find_panel(name), self.choice)

    def _load_search(self, panel: str, system: str) -> Found | None:
        found = stored_search(self.store, search_of(panel, system, self.choice))
        self._searched += [found] if found is not None else []
        return found

    def kernels(self, part: str) -> Measurement | None:
        """A microbenchmark as it was measured on the choice's backend; None if it was not."""
        return self.store.kernels(part, backend=self.choice.backend)

    @property
    def panels(self) -> dict[str, PanelTable]:
        """Every panel of the registry."""
        names = [panel.name for figure in registry.FIGURES.values() for panel in figure.panels]
        return {name: self.panel(name) for name in names}

    def searches(self, panel: str) -> list[Found]:
        """The finished searches behind claims about a panel, in the order of its curves."""
        systems = dict.fromkeys(curve.system for curve in registry.find_panel(panel).curves)
        found = [self.search(panel, name) for name in systems if (panel, name) in SEARCHED]
        return [one for one in found if one is not None]

    def probes(self, panel: str) -> list[PointSpec]:
        """The points that the searches of a panel's curves have added to the figure's, in order."""
        own = set(self.panel(panel).specs)
        return [s for one in self.searches(panel) for s in one.specs if s not in own]

    def searched(self, panel: str) -> dict[str, Searched]:
        """What was found by bisection, by system, for the panel's drawing."""
        return {
            str(one.spec.system): Searched(one.mean.value, one.brackets[one.spec.seed].probes)
            for one in self.searches(panel)
        }

    @property
    def specs(self) -> list[PointSpec]:
        """Every sound point of the panels, and those of the searches that have been asked for."""
        of_panels = [spec for table in self.panels.values() for spec in table.sound_specs]
        return list(dict.fromkeys([*of_panels, *(s for f in self._searched for s in f.specs)]))

    @cached_property
    def pending(self) -> dict[str, str]:
        """Figures that nothing simulates and no device has measured, and how to get them."""
        return {
            name: f"measured on a device, never simulated: run `bench figure {name}`"
            for name, figure in registry.FIGURES.items()
            if figure.only_measured and self.kernels(figure.microbenchmark) is None
        }


def pairs_of(claim: Claim) -> tuple[Pair, ...]:
    """The pairs behind a claim; none unless it is about a ratio of capacities."""
    if claim.measure != "capacity_ratio":
        return ()
    panels = claim.args.get("panels") or (claim.args["panel"],)
    return tuple(Pair(panel, claim.args["over"], claim.args["under"]) for panel in panels)


def ratio_claims(selections: Iterable[Selection]) -> list[Claim]:
    """The claims of figures that compare capacities; of a part, those about panels within it."""
    found: dict[str, Claim] = {}
    for selection in selections:
        chosen = {panel.name for panel in selection.panels}
        for figure in selection.figures:
            whole = figure.name in registry.FIGURES
            for claim in figure.claims:
                pairs = pairs_of(claim)
                if pairs and (whole or {pair.panel for pair in pairs} <= chosen):
                    found[claim.text] = claim
    return list(found.values())


def pairs_in(selection: Selection) -> list[Pair]:
    """The pairs behind the claims of figures or parts of them, each once."""
    claims = ratio_claims([selection])
    return list(dict.fromkeys(pair for claim in claims for pair in pairs_of(claim)))


def search_of(panel_name: str, system: str, choice: Choice) -> Search:
    """The search for a system's curve: its settings, first among the rates of the figure."""
    panel = registry.find_panel(panel_name)
    found = [curve for curve in choice.panel(panel).curves if curve.system == system]
    assert len(found) == 1, f"panel {panel_name} has {len(found)} curves of {system}"
    spec = next(spec for spec in choice.points(panel) if spec.system == system)
    return Search(spec, found[0].all_rates)


# The curves, by panel and system, whose capacities some claim compares.
SEARCHED = frozenset(
    (pair.panel, system)
    for pair in pairs_in(registry.find("all"))
    for system in (pair.over, pair.under)
)
