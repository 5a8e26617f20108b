"""Verdicts: what holds, what is open, and what the table says of it."""

from dataclasses import replace

import pytest
from capacity_fakes import fill

from bench.claims.counts import count, headline
from bench.claims.evidence import Evidence
from bench.claims.measures import Measurement
from bench.claims.verdicts import (
    Doubt,
    Status,
    allowed,
    by_reason,
    deviation_of,
    judge,
    records,
    table,
)
from bench.experiments import registry
from bench.experiments.capacity import Bound, Estimate
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.results.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def claim(**changes) -> Claim:
    base = Claim("fig12:x", "a claim", 10.0, "relative", "kernel_ratio", tolerance=0.1, unit="x")
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
        ({"tolerance": None, "half_units": (0.5, 0.5)}, 10.5, Status.PASS),
        ({"tolerance": None, "half_units": (0.5, 0.5)}, 10.51, Status.FAIL),
        ({"tolerance": None, "half_units": (0.5, 0.5)}, 9.49, Status.FAIL),
        ({"kind": "at-most", "tolerance": None, "half_units": (0.5, 0.5)}, 10.5, Status.PASS),
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


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        ("fig12:astra/orca-oracle", (1.65, 2.75)),
        ("fig12:astra/orca-max", (2.65, 8.5)),
        ("fig12:astra/ft:up_to", (21.5, 22.5)),
        ("fig19:recompute_over_swap_max", (float("-inf"), 1.205)),
    ],
)
def test_half_a_unit_of_the_papers_last_digit_is_allowed(path, ends):
    claims = [claim for figure in registry.FIGURES.values() for claim in figure.claims]
    for one in (claim for claim in claims if claim.path == path):
        assert allowed(one) == pytest.approx(ends)
        assert one.tolerance is None


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
    ("ours", "interval", "status"),
    [
        (12.0, (8.0, 13.0), Status.OPEN),
        (12.0, (11.5, 13.0), Status.FAIL),
        (12.0, None, Status.FAIL),
        (10.0, (8.0, 11.5), Status.OPEN),
        (10.0, (9.5, 10.5), Status.PASS),
        (10.0, (8.0, 12.0), Status.OPEN),
    ],
)
def test_a_claim_is_open_where_seeds_disagree_about_it(ours, interval, status):
    made = claim(notes="because of the weather")
    row = judged(made, Estimate(ours), interval=interval, seeds=(0, 1, 2))
    reason = row["reason_text"]
    assert row["status"] is status
    assert (row["doubt"] is Doubt.INTERVAL) is (status is Status.OPEN)
    assert reason.endswith("because of the weather") is (status is not Status.PASS)
    if status is Status.OPEN:
        way = "beyond" if ours == 10.0 else "into"
        told = f"interval over 3 seeds, {interval[0]:.2f} to {interval[1]:.2f}x, reaches {way} what"
        assert told in reason
        assert "--figure fig12 --seeds 12" in reason


@pytest.mark.parametrize("ours", [10.0, 20.0])
def test_no_claim_holds_or_fails_on_an_assumption(ours):
    made = claim(assumed="how fast it is")
    row = judged(made, Estimate(ours))
    assert (row["status"], row["doubt"]) == (Status.OPEN, Doubt.ASSUMED)
    assert "how fast it is" in row["reason_text"]
    found = Measurement(Estimate(ours), num_points=4, backend="cuda")
    measured = judge("fig18-b", made, found, backend="sim")
    assert measured["status"] is (Status.PASS if ours == 10.0 else Status.FAIL)


def test_one_reason_for_several_claims_is_told_once():
    misses = [("a", "rain"), ("b", "sun"), ("c", "rain"), ("d", ""), ("e", "")]
    rows = [judged(claim(text=text, notes=notes), Estimate(20.0)) for text, notes in misses]
    rows.insert(1, judged(claim(notes="rain"), Estimate(10.0)))
    told = [[row["claim"] for row in group] for group in by_reason(rows)]
    assert told == [["a", "c"], ["b"], ["d"], ["e"]]


def test_claims_are_counted_by_how_they_were_obtained_and_how_firmly(store):
    fill(store, "fig2", "fig18-b", factor=0.01)
    rows = records(table(Evidence(store, Choice())))
    told = headline(rows)
    assert told.startswith("0 of 2 predicted claims hold, 4 of 4 computed, ")
    assert "of 12 calibrated; open: 4 assumed; " in told
    assert sum(one.total for one in count(rows)) == len(rows)


def test_a_claim_that_is_not_decided_counts_for_no_basis():
    rows = [judged(claim(), Estimate(v), interval=(v - 1, v + 1)) for v in (10.0, 11.0, 13.0)]
    rows += [judged(claim(calibrated="a price"), Estimate(10.0))]
    expected = "1 of 2 predicted claims hold, 1 of 1 calibrated; open: 1 interval"
    assert headline(rows) == expected


def test_a_miss_beyond_a_computed_bound_says_so():
    bounded = judged(claim(bound="12.5x", notes="rain"), Estimate(13.0))
    assert "its setup allows at most 12.5x (docs/bounds.md); rain" in bounded["reason_text"]
    rows = [bounded, judged(claim(), Estimate(13.0)), judged(claim(bound="12.5x"), Estimate(10.0))]
    assert headline(rows).endswith("; 1 of the 2 misses beyond a bound of their setup")


def test_empty_store_gives_no_verdict_but_those_that_need_no_run(store):
    found = table(Evidence(store, Choice()))
    run = found[~found["figure"].isin(["table1", "fig19-a"])]
    assert set(run["status"]) == {Status.NOT_RUN}
    assert headline([]) == "no claim is decided"


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
