"""Where the points behind the claims lie."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from capacity_fakes import capacity_of, fill, put

from bench.claims.bisection import Target
from bench.claims.evidence import Evidence, search_of
from bench.claims.searches import bisect_seeds, probe_spec
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.report.points import places
from bench.results.store import Store, folder_of

PANEL = "fig12-13b-sharegpt"


def test_points_of_curves_and_the_ends_of_searches_are_there(tmp_path: Path) -> None:
    store = Store(tmp_path, source="present")
    fill(store, PANEL)
    search = search_of(PANEL, "astra", Choice())

    def latency_at(seed: int, rate: float) -> float:
        return put(store, probe_spec(search.spec, seed, rate))

    list(islice(bisect_seeds(search, latency_at, target=Target()), 2))
    (found,) = places(Evidence(store, Choice()), registry.FIGURES["fig12"])
    assert (found.table.panel.name, len(found.table.sound)) == (PANEL, len(found.table.frame))
    curves = {curve.name: curve for curve in found.curves}
    panel = registry.find_panel(PANEL)
    for curve in panel.curves:
        assert [spec.rate for spec in curves[curve.system].points] == list(curve.all_rates)
    assert curves["ft"].ends == ()
    assert [seed for seed, _, _ in curves["astra"].ends] == [0, 1]
    for seed, sustained, exceeded in curves["astra"].ends:
        assert sustained.rate < capacity_of("astra", seed) <= exceeded.rate
    listed = [spec for c in found.curves for spec in c.points]
    listed += [spec for c in found.curves for _, *ends in c.ends for spec in ends]
    assert all((tmp_path / folder_of(spec) / "point.json").exists() for spec in listed)
