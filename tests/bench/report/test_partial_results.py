"""Figures and reports of results in any state: drawn or pending, never an error or a warning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from partial_fakes import PartialStore, points_of, sound, states, without_latency

from bench.claims.evidence import Evidence
from bench.claims.verdicts import Status, records, table
from bench.commands.report import print_report
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec
from bench.report.build import build_report
from bench.report.write import write_report
from engines.core.errors import UserError
from plot import draw as drawing

STATES = list(states(points_of("fig2", Choice())))
LIKE_OTHERS = ("the last point", "no numbers")  # to a figure, which takes long to draw
SERVED = [figure.name for figure in registry.FIGURES.values() if figure.panels]
NOT_SERVED = [name for name in registry.FIGURES if name not in SERVED]


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The style of figures with few dots to the inch: drawing takes a fraction of the time."""
    path = tmp_path_factory.mktemp("style") / "coarse.mplstyle"
    path.write_text(drawing.STYLE.read_text().replace("savefig.dpi: 300", "savefig.dpi: 50"))
    return path


@pytest.fixture
def pictures(coarse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse pictures, and nothing for print: both show the same axes."""
    monkeypatch.setattr(drawing, "STYLE", coarse)
    monkeypatch.setattr(drawing, "METADATA", {"png": drawing.METADATA["png"]})


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("state", [state for state in STATES if state not in LIKE_OTHERS])
@pytest.mark.parametrize("name", SERVED)
def test_every_figure_is_drawn_from_any_part_of_its_points(
    name: str, state: str, tmp_path: Path
) -> None:
    choice = Choice.of(effort=Effort.QUICK)
    store = states(points_of(name, choice))[state]
    if store.held:
        (file,) = drawing.draw(name, store, tmp_path, choice)
        assert file.read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(UserError, match=f"run 'bench figure {name}"):
            drawing.draw(name, store, tmp_path, choice)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", NOT_SERVED)
def test_figures_that_are_not_served_need_no_points(name: str, tmp_path: Path) -> None:
    if registry.FIGURES[name].only_measured:
        with pytest.raises(UserError, match="no results"):
            drawing.draw(name, PartialStore(frozenset()), tmp_path)
    else:
        assert drawing.draw(name, PartialStore(frozenset()), tmp_path)


def written(store: PartialStore, choice: Choice, directory: Path) -> dict:
    """All that the report writes and prints; returns what machines read."""
    report = build_report(store, choice)
    write_report(report, directory, {})
    print_report(report)
    return json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("state", STATES)
def test_the_report_is_written_from_any_part_of_the_points(state: str, tmp_path: Path) -> None:
    store = states(points_of("all", Choice()))[state]
    values = written(store, Choice(), tmp_path)
    assert len(values["claims"]) > 40
    for claim in values["claims"]:
        assert claim["verdict"] in [status.value for status in Status]
        assert claim["ours"] is None or math.isfinite(claim["ours"]["value"])


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_no_ratio_rests_on_part_of_a_curve(data: st.DataObject) -> None:
    """A claim has no number where a point that it needs is not there or lacks its latency."""
    missing = data.draw(st.sets(st.sampled_from(POINTS), max_size=5))
    faint = data.draw(st.sets(st.sampled_from(POINTS), min_size=1, max_size=5)) - missing

    def metrics(spec: PointSpec) -> dict[str, Any]:
        return without_latency(spec) if spec in faint else sound(spec)

    store = PartialStore(frozenset(POINTS) - missing, metrics)
    lost = {(PANEL_OF[spec], spec.system) for spec in missing | faint}
    for row in records(table(Evidence(store, Choice()))):
        needed = _curves_of(CLAIMS[row["path"], row["claim"]])
        if needed & lost:
            assert row["ours"] is None, row["claim"]
            assert row["status"] in (Status.INCOMPLETE, Status.NOT_RUN)
            assert row["absent"]
        elif needed:
            assert row["ours"] is not None or row["status"] is Status.OPEN


POINTS = points_of("all", Choice())
CLAIMS = {
    (claim.path, claim.text): claim
    for claim in (
        *registry.TABLE1_CLAIMS,
        *(c for figure in registry.FIGURES.values() for c in figure.claims),
    )
}
PANEL_OF = {
    spec: panel.name
    for figure in registry.FIGURES.values()
    for panel in figure.panels
    for spec in Choice().points(panel)
}


def _curves_of(claim: Claim) -> set[tuple[str, str]]:
    """Panel and system of the curves whose latencies a claim compares."""
    args = claim.args
    if claim.measure == "capacity_ratio":
        panels = args.get("panels") or (args["panel"],)
        return {(panel, args[side]) for panel in panels for side in ("over", "under")}
    if claim.measure == "best_block_size":
        return {(args["panel"], "astra")}
    if claim.measure == "largest_latency_ratio":
        return {(args[side], "astra") for side in ("over", "under")}
    return set()
