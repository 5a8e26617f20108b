"""The report: verdicts from made-up results in a real store."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bench.claims.measures import MEASURES, Measurement, capacity_ratio, largest_capacity_ratio
from bench.claims.verdicts import Status, by_reason, deviation_of, judge, reason_text
from bench.experiments import registry
from bench.experiments.capacity import Bound, Estimate
from bench.experiments.model import Claim
from bench.experiments.tables import Choice, load_panel
from bench.point.serve import Outcome
from bench.report.build import build_report, write_report
from bench.report.wording import bases_text
from bench.results.store import Store
from engines.core.errors import UserError

SHAREGPT = "fig12-13b-sharegpt"
CAPACITY = {"astra": 1.6, "orca-oracle": 0.8, "orca-pow2": 0.6, "orca-max": 0.5, "ft": 0.2}
KV_PCT = {"token": 40.0, "reservation": 25.0, "internal": 0.0, "external": 35.0}


def latency_s(system: str, rate: float) -> float:
    """Straight below and above, crossing 1 s/token exactly at the capacity."""
    return rate / CAPACITY[system]


def write(store: Store, spec) -> None:
    metrics = {
        "backend": spec.backend,
        "device": "1x made-up",
        "mean_normalized_latency_s": latency_s(spec.system, spec.rate),
        "mean_running_requests": 7.0,
        "kv_pct": KV_PCT,
        "kv_used_pct": 65.0,
        "wall_s": 0.5,
        "host_us_per_step": 20.0,
    }
    provenance = {
        "source_sha256": store.source,
        "git_commit": "c0ffee",
        "python": "3.11",
        "packages": {"numpy": "2"},
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:00+00:00",
    }
    outcome = Outcome(metrics, {"request_id": np.arange(3)}, {})
    store.write(spec, outcome, provenance=provenance)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def fill(store: Store, *names: str, **overrides) -> None:
    for name in names:
        for spec in registry.find(name).points(**overrides):
            write(store, spec)


def tables_of(store: Store, *names: str):
    return {name: load_panel(store, registry.find_panel(name), Choice()) for name in names}


def claim(**changes) -> Claim:
    base = Claim("fig12:x", "a claim", 10.0, 0.1, "relative", "kernel_ratio", unit="x")
    return replace(base, **changes)


def judged(made: Claim, estimate: Estimate | None, monkeypatch):
    found = Measurement(estimate, num_points=4)
    monkeypatch.setitem(
        MEASURES,
        "kernel_ratio",
        lambda tables: found,
    )
    return judge("fig12", made, {}, "sim")


@pytest.mark.parametrize(
    ("changes", "ours", "status"),
    [
        ({}, 11.0, Status.PASS),
        ({}, 11.1, Status.FAIL),
        ({}, 8.9, Status.FAIL),
        ({"kind": "points", "tolerance": 1.0}, 10.9, Status.PASS),
        ({"kind": "points", "tolerance": 1.0}, 11.1, Status.FAIL),
        ({"kind": "range", "paper": (2.0, 4.0), "tolerance": 0.0}, 3.0, Status.PASS),
        ({"kind": "range", "paper": (2.0, 4.0), "tolerance": 0.0}, 4.01, Status.FAIL),
        ({"kind": "range", "paper": (2.0, 4.0), "tolerance": 0.1}, 1.81, Status.PASS),
        ({"kind": "at-most", "tolerance": 0.0}, 3.0, Status.PASS),
        ({"kind": "at-most", "tolerance": 0.0}, 10.1, Status.FAIL),
    ],
)
def test_status_follows_from_kind_and_tolerance(changes, ours, status, monkeypatch):
    assert judged(claim(**changes), Estimate(ours), monkeypatch).status is status


@pytest.mark.parametrize(
    ("ours", "bound", "status"),
    [
        (10.0, Bound.AT_LEAST, Status.OPEN),
        (12.0, Bound.AT_LEAST, Status.FAIL),
        (5.0, Bound.AT_LEAST, Status.OPEN),
        (5.0, Bound.AT_MOST, Status.FAIL),
        (12.0, Bound.AT_MOST, Status.OPEN),
    ],
)
def test_a_bound_never_passes(ours, bound, status, monkeypatch):
    assert judged(claim(), Estimate(ours, bound), monkeypatch).status is status


def test_deviation_is_from_the_nearer_end():
    made = claim(kind="range", paper=(2.0, 4.0))
    assert deviation_of(made, 5.0) == pytest.approx(0.25)
    assert deviation_of(made, 1.0) == pytest.approx(-0.5)
    assert deviation_of(made, 3.0) == 0.0
    assert deviation_of(claim(kind="points", paper=0.0), 0.4) == pytest.approx(0.4)


def test_notes_are_shown_only_where_the_claim_misses(monkeypatch):
    made = claim(notes="because of the weather")
    assert reason_text(judged(made, Estimate(10.0), monkeypatch)) == ""
    failed = reason_text(judged(made, Estimate(20.0), monkeypatch))
    assert "because of the weather" in failed
    assert "+100.0 %" in failed


@pytest.mark.parametrize(
    ("interval", "status"),
    [((8.0, 13.0), Status.OPEN), ((11.5, 13.0), Status.FAIL), (None, Status.FAIL)],
)
def test_a_gap_smaller_than_seeds_differ_by_leaves_a_claim_open(interval, status, monkeypatch):
    found = Measurement(Estimate(12.0), num_points=4, interval=interval, seeds=(0, 1, 2))
    monkeypatch.setitem(MEASURES, "kernel_ratio", lambda tables: found)
    verdict = judge("fig12", claim(notes="because of the weather"), {}, "sim")
    assert verdict.status is status
    assert reason_text(verdict).endswith("because of the weather")
    told = "95 % interval over 3 seeds, 8.00 to 13.00x, reaches into what is allowed"
    assert (told in reason_text(verdict)) is (status is Status.OPEN)
    assert ("--figure fig12 --seeds 12" in reason_text(verdict)) is (status is Status.OPEN)


def test_one_reason_for_several_claims_is_told_once(monkeypatch):
    def failed(text: str, notes: str):
        return judged(claim(text=text, notes=notes), Estimate(20.0), monkeypatch)

    held = judged(claim(notes="rain"), Estimate(10.0), monkeypatch)
    verdicts = [failed("a", "rain"), held, failed("b", "sun"), failed("c", "rain"), failed("d", "")]
    verdicts.append(failed("e", ""))
    told = [[verdict.claim.text for verdict in group] for group in by_reason(verdicts)]
    assert told == [["a", "c"], ["b"], ["d"], ["e"]]


def test_claims_are_counted_by_how_they_were_obtained(store):
    fill(store, "fig2")
    report = build_report(store, Choice())
    assert "4 of 4 computed hold" in bases_text(report)
    assert "of 12 calibrated hold" in bases_text(report)
    assert "of 2 predicted hold" in bases_text(report)


def test_ratio_of_capacities(store):
    fill(store, SHAREGPT)
    found = capacity_ratio(
        tables_of(store, SHAREGPT), panel=SHAREGPT, over="astra", under="orca-oracle"
    )
    assert found.estimate is not None
    assert found.estimate.bound is Bound.EXACT
    assert found.estimate.value == pytest.approx(2.0)
    assert found.devices == ("1x made-up",)


def test_a_missing_point_leaves_the_ratio_without_a_number(store):
    for spec in registry.find(SHAREGPT).points():
        if not (spec.system == "astra" and spec.rate == 1.5):
            write(store, spec)
    found = capacity_ratio(
        tables_of(store, SHAREGPT), panel=SHAREGPT, over="astra", under="orca-oracle"
    )
    assert found.estimate is None
    assert found.absent == (f"{SHAREGPT}: astra at 1.5 req/s is missing",)


def test_largest_ratio_needs_every_panel(store):
    other = "fig12-66b-sharegpt"
    fill(store, SHAREGPT)
    args = {"panels": (SHAREGPT, other), "over": "astra", "under": "ft"}
    assert largest_capacity_ratio(tables_of(store, SHAREGPT, other), **args).estimate is None


def test_empty_store_gives_no_verdict_but_those_that_need_no_run(store):
    report = build_report(store, Choice())
    run = [v for v in report.verdicts if v.figure not in ("table1", "fig19-a")]
    assert {v.status for v in run} == {Status.NOT_RUN}
    assert report.problems == ()
    assert report.summary.num_points == 0


def test_report_counts_only_sound_results_and_names_the_others(store, tmp_path):
    fill(store, "fig2")
    spoilt = registry.find("fig2").points()[0]
    path = store.directory(spoilt) / "requests.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    report = write_report(store, tmp_path / "report")
    assert report.summary.num_points == 3
    assert any("orca-max at 4 req/s is corrupt" in line for line in report.problems)
    statuses = {
        v.status
        for v in report.verdicts
        if v.claim.args.get("system") == "orca-max" and v.figure == "fig2"
    }
    assert statuses == {Status.NOT_RUN}
    assert "is corrupt" in (tmp_path / "report" / "report.md").read_text()


def test_verdicts_compare_our_number_with_the_papers(store):
    fill(store, "fig2")
    report = build_report(store, Choice())
    by_path = {v.claim.path: v for v in report.verdicts}
    oracle = by_path["fig2:orca-oracle:reservation"]
    assert oracle.status is Status.PASS
    assert oracle.deviation == pytest.approx(25.0 - 25.2)
    astra = by_path["fig2:astra:other"]
    assert astra.ours == Estimate(60.0)
    assert astra.status is Status.FAIL


def test_results_of_one_backend_never_reach_the_report_of_another(store):
    fill(store, "fig2", backend="cpu")
    assert build_report(store, Choice()).summary.num_points == 0
    report = build_report(store, Choice(backend="cpu"))
    assert report.summary.num_points == 4
    assert {v.basis for v in report.verdicts if v.figure == "fig2"} == {"measured"}


def test_stale_results_are_marked(store, tmp_path):
    fill(store, "fig2")
    report = build_report(Store(tmp_path, source="later"), Choice())
    assert all(v.measurement.stale for v in report.verdicts if v.figure == "fig2")
    assert sum("is stale" in line for line in report.problems) == 4


def test_files_are_a_function_of_the_results(store, tmp_path):
    fill(store, "fig2", SHAREGPT)
    first = write_report(store, tmp_path / "a")
    second = write_report(store, tmp_path / "b")
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_json_holds_every_verdict_and_capacity(store, tmp_path):
    fill(store, SHAREGPT)
    report = write_report(store, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    assert len(values["claims"]) == len(report.verdicts)
    capacities = {row["system"]: row["capacity_req_s"] for row in values["capacities"]}
    assert capacities["astra"]["value"] == pytest.approx(1.6)
    assert {row["bound"] for row in capacities.values()} == {"exact"}


def test_terminal_names_what_fails(store):
    fill(store, "fig2")
    console = Console(record=True, width=160, file=io.StringIO())
    write_report(store, store.root / "report", console=console)
    text = console.export_text()
    assert "do not" in text
    assert "fails" in text


def test_unwritable_place_is_one_clear_line(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(store, tmp_path / "file" / "report")
