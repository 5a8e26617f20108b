"""Verdicts: what holds, what is open, and what the table says of it."""

from dataclasses import replace

import pytest
from capacity_fakes import fill

from bench.claims.evidence import Evidence
from bench.claims.measures import Measurement
from bench.claims.verdicts import (
    Status,
    bases_text,
    by_reason,
    deviation_of,
    headline,
    judge,
    table,
)
from bench.experiments.capacity import Bound, Estimate
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.results.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def claim(**changes) -> Claim:
    base = Claim("fig12:x", "a claim", 10.0, 0.1, "relative", "kernel_ratio", unit="x")
    return replace(base, **changes)


def judged(made: Claim, estimate: Estimate, **found):
    measurement = Measurement(estimate, num_points=4, **found)
    return judge("fig12", made, measurement, backend="sim")


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
def test_status_follows_from_kind_and_tolerance(changes, ours, status):
    assert judged(claim(**changes), Estimate(ours))["status"] is status


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
def test_a_bound_never_passes(ours, bound, status):
    assert judged(claim(), Estimate(ours, bound))["status"] is status


def test_deviation_is_from_the_nearer_end():
    made = claim(kind="range", paper=(2.0, 4.0))
    assert deviation_of(made, 5.0) == pytest.approx(0.25)
    assert deviation_of(made, 1.0) == pytest.approx(-0.5)
    assert deviation_of(made, 3.0) == 0.0
    assert deviation_of(claim(kind="points", paper=0.0), 0.4) == pytest.approx(0.4)


def test_notes_are_shown_only_where_the_claim_misses():
    made = claim(notes="because of the weather")
    assert judged(made, Estimate(10.0))["reason_text"] == ""
    failed = judged(made, Estimate(20.0))["reason_text"]
    assert "because of the weather" in failed
    assert "+100.0 %" in failed


@pytest.mark.parametrize(
    ("interval", "status"),
    [((8.0, 13.0), Status.OPEN), ((11.5, 13.0), Status.FAIL), (None, Status.FAIL)],
)
def test_a_gap_smaller_than_seeds_differ_by_leaves_a_claim_open(interval, status):
    made = claim(notes="because of the weather")
    row = judged(made, Estimate(12.0), interval=interval, seeds=(0, 1, 2))
    reason = row["reason_text"]
    assert row["status"] is status
    assert reason.endswith("because of the weather")
    told = "95 % interval over 3 seeds, 8.00 to 13.00x, reaches into what is allowed"
    assert (told in reason) is (status is Status.OPEN)
    assert ("--figure fig12 --seeds 12" in reason) is (status is Status.OPEN)


def test_one_reason_for_several_claims_is_told_once():
    misses = [("a", "rain"), ("b", "sun"), ("c", "rain"), ("d", ""), ("e", "")]
    rows = [judged(claim(text=text, notes=notes), Estimate(20.0)) for text, notes in misses]
    rows.insert(1, judged(claim(notes="rain"), Estimate(10.0)))
    told = [[row["claim"] for row in group] for group in by_reason(rows)]
    assert told == [["a", "c"], ["b"], ["d"], ["e"]]


def test_claims_are_counted_by_verdict_and_by_how_they_were_obtained(store):
    fill(store, "fig2")
    found = table(Evidence(store, Choice()))
    for words in ("4 of 4 computed hold", "of 12 calibrated hold", "of 2 predicted hold"):
        assert words in bases_text(found)
    held = (found["status"] == Status.PASS).sum()
    assert headline(found).startswith(f"{held} of {len(found)} claims hold, ")


def test_empty_store_gives_no_verdict_but_those_that_need_no_run(store):
    found = table(Evidence(store, Choice()))
    run = found[~found["figure"].isin(["table1", "fig19-a"])]
    assert set(run["status"]) == {Status.NOT_RUN}
    assert headline(found[found["figure"] == "none"]) == "0 of 0 claims hold, 0 do not"


def test_verdicts_compare_our_number_with_the_papers(store):
    fill(store, "fig2")
    rows = table(Evidence(store, Choice())).set_index("path")
    oracle, astra = rows.loc["fig2:orca-oracle:reservation"], rows.loc["fig2:astra:other"]
    assert oracle["status"] is Status.PASS
    assert oracle["deviation"] == pytest.approx(25.0 - 25.2)
    assert (astra["ours"], astra["status"]) == (60.0, Status.FAIL)


def test_results_of_one_backend_never_reach_the_verdicts_of_another(store):
    fill(store, "fig2", backend="cpu")
    assert Evidence(store, Choice()).specs == []
    evidence = Evidence(store, Choice(backend="cpu"))
    found = table(evidence)
    assert len(evidence.specs) == 4
    assert set(found.loc[found["figure"] == "fig2", "basis"]) == {"measured"}
