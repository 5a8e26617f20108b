"""From tables to what is drawn."""

import pytest

from bench.experiments import registry
from bench.experiments.tables import Choice, PanelTable, load_panel
from bench.results.store import State
from plot.summary import footer, gaps, paper_values
from plot.systems import SYSTEMS

SHAREGPT = "fig12-13b-sharegpt"


def table(store, name: str) -> PanelTable:
    return load_panel(store, registry.find_panel(name), Choice())


def lost_at(system: str, rate: float, state: State = State.MISSING):
    return lambda spec: state if (spec.system, spec.rate) == (system, rate) else None


def test_a_metric_is_there_for_every_point_in_the_registrys_order(made_up):
    values = table(made_up(), "fig2-13b-sharegpt").metric("kv_pct_token")
    assert list(values.index) == ["orca-max", "orca-pow2", "orca-oracle", "astra"]
    assert values.tolist() == [40.0] * 4


def test_a_missing_point_is_a_gap_at_its_rate(made_up):
    values = table(made_up(lost_at("astra", 1.5)), SHAREGPT).metric(
        "mean_normalized_latency_s", by="rate"
    )
    assert set(values[values.isna()].index) == {1.5}
    assert values.isna().sum() == 1


def test_a_metric_that_no_point_has_is_nan(made_up):
    values = table(made_up(), "fig2-13b-sharegpt").metric("never_recorded")
    assert values.isna().all()
    assert len(values) == 4


def test_paper_values_come_from_the_claims():
    figure = registry.FIGURES["fig2"]
    found = paper_values(figure, "fig2-13b-sharegpt", "orca-max")
    assert found[("kv_pct_token",)] == 20.4
    assert sum(found.values()) == pytest.approx(100, abs=0.2)
    astra = paper_values(figure, "fig2-13b-sharegpt", "astra")
    assert sum(astra.values()) == pytest.approx(100)


def test_footer_says_how_the_numbers_came_about(made_up):
    text = footer(registry.FIGURES["fig12"], [table(made_up(), SHAREGPT)], "sim")
    for part in ("Simulated", "1x made-up", "proxy", "request-level policy", "600 s", "seed 0"):
        assert part in text
    assert "OPT-13B, ShareGPT" in text
    fig2 = footer(registry.FIGURES["fig2"], [table(made_up(), "fig2-13b-sharegpt")], "cpu")
    assert "Measured on CPU" in fig2
    assert "shipped statistics" in footer(registry.FIGURES["fig11"], [], "sim")


def test_gaps_name_missing_and_stale_points(made_up):
    assert gaps([table(made_up(), SHAREGPT)]) == []
    (line,) = gaps([table(made_up(lost_at("astra", 1.5)), SHAREGPT)])
    assert "1 missing (astra 1.5 req/s)" in line
    (line,) = gaps([table(made_up(lost_at("ft", 0.2, State.STALE)), SHAREGPT)])
    assert "stale" in line


def test_every_system_has_a_look_of_its_own():
    for attribute in ("label", "colour", "marker"):
        values = [getattr(style, attribute) for style in SYSTEMS.values()]
        assert len(set(values)) == len(values)
    registered = {p.system for figure in registry.FIGURES.values() for p in figure.points()}
    assert registered <= set(SYSTEMS)
