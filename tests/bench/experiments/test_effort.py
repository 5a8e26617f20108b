"""Quick, scripts' and full runs: the same code on other traces, whose results never mix."""

import pytest
from capacity_fakes import serve
from click.testing import CliRunner
from driver_fakes import provenance

from bench.claims.verdicts import Doubt, Status
from bench.cli import main
from bench.experiments import registry
from bench.experiments.effort import FEWEST_REQUESTS, QUICK_SHARE, Effort, at_effort
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.report.render import to_html, to_markdown
from bench.results.store import Store
from engines.core.errors import UserError
from plot.draw import draw

PANELS = [panel for figure in registry.FIGURES.values() for panel in figure.panels]
QUICK = Choice.of(effort=Effort.QUICK)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.name)
def test_quick_panels_serve_less_of_the_same(panel):
    quick = at_effort(panel, Effort.QUICK)
    short = at_effort(panel, Effort.SHORT)
    assert quick.settings["duration"] == QUICK_SHARE * short.settings["duration"]
    assert len(quick.curves) == len(panel.curves)
    for before, after in zip(short.curves, quick.curves, strict=True):
        assert set(after.all_rates) <= set(before.all_rates)
        assert max(after.all_rates) == max(before.all_rates)
        assert len(after.all_rates) <= (len(before.all_rates) + 1) // 2
        seconds = quick.settings["duration"] - quick.settings.get("warmup", 0.0)
        assert len(after.all_rates) == 1 or min(after.all_rates) * seconds >= FEWEST_REQUESTS
    kept = ("model", "workload", "device_profile", "tensor_parallel", "preemption", "share_prefix")
    assert {k: quick.settings.get(k) for k in kept} == {k: panel.settings.get(k) for k in kept}


def test_no_point_belongs_to_two_efforts():
    digests = {
        effort: {spec.digest for panel in PANELS for spec in Choice.of(effort=effort).points(panel)}
        for effort in Effort
    }
    assert not digests[Effort.QUICK] & (digests[Effort.SHORT] | digests[Effort.FULL])
    assert digests[Effort.SHORT] != digests[Effort.FULL]


def test_both_options_at_once_are_refused():
    with pytest.raises(UserError, match="exclude each other"):
        Effort.of("sim", quick=True, short=False, full=True)


def fill(store: Store, choice: Choice, *names: str) -> None:
    for panel in (p for name in names for p in registry.find(name).panels):
        for spec in choice.points(panel):
            outcome = serve(spec)
            outcome.metrics["kv_pct"] = {"token": 1.0, "reservation": 2.0}
            store.write(spec, outcome, provenance=provenance(spec, store.source))


def test_results_of_one_effort_are_missing_for_another(tmp_path):
    store = Store(tmp_path, source="present")
    fill(store, QUICK, "fig2")
    assert build_report(store, QUICK).summary.num_points == 4
    assert build_report(store, Choice()).summary.num_points == 0


def test_quick_results_refute_nothing_and_say_what_they_are(tmp_path):
    store = Store(tmp_path, source="present")
    fill(store, QUICK, "fig2")
    report = build_report(store, QUICK)
    assert Status.FAIL not in set(report.verdicts["status"])
    too_short = report.verdicts[report.verdicts["doubt"] == Doubt.SHORT]
    assert not too_short.empty
    assert set(too_short["status"]) == {Status.OPEN}
    assert too_short["reason_text"].str.contains("too short to decide").all()
    for text in (to_markdown(report), to_html(report, {})):
        assert "Quick run" in text
        assert "too short to decide" in text


def test_quick_figures_say_so_and_lie_apart(tmp_path, monkeypatch):
    store = Store(tmp_path / "artifacts")
    fill(store, QUICK, "fig2")
    monkeypatch.chdir(tmp_path)
    drawn = CliRunner().invoke(main, ["plot", "fig2", "--quick", "--backend", "sim"])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "artifacts" / "figures" / "quick" / "fig2.png").exists()
    assert not (tmp_path / "artifacts" / "figures" / "fig2.png").exists()
    absent = CliRunner().invoke(main, ["plot", "fig2", "--backend", "sim"])
    assert absent.exit_code == 2
    with pytest.raises(UserError, match="--short"):
        draw("fig12", store, tmp_path, Choice.of(effort=Effort.SHORT))
