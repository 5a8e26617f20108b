"""Searches for capacities: bisection, resuming, intervals over seeds, and the claims' ratios."""

import json
import math
from dataclasses import replace

import pytest
from capacity_fakes import capacity_of, latency_s, refuse_two, serve
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.claims.capacity_run import run_searches
from bench.claims.capacity_search import (
    Bracket,
    Search,
    Target,
    Wanted,
    search,
    stored_search,
)
from bench.claims.intervals import geometric_mean, t_quantile
from bench.claims.searched import StoredSearches, pairs_in, pairs_of, search_of
from bench.commands.capacity import command
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec
from bench.report.build import build_report
from bench.results.store import Store
from bench.sweep.local import LocalProcesses
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", rate=1.0, duration=600.0)
SEARCH = Search.at(SPEC)
WIDE = {"target": Target(), "duration_s": 600.0}
PANEL = "fig12-13b-sharegpt"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def put(store: Store, spec: PointSpec) -> float:
    provenance = {"source_sha256": store.source, "started": "", "ended": ""}
    store.write(spec, serve(spec), provenance=provenance)
    return latency_s(spec)


def fill_search(store: Store, wanted: Search, seeds: int) -> None:
    spec = wanted.spec
    for seed in range(seeds):
        one = replace(spec, seed=seed)
        search(
            wanted.rates,
            lambda rate, one=one: put(store, replace(one, rate=rate)),
            target=Target(),
            duration_s=spec.duration,
        )


@given(
    st.floats(0.05, 100.0),
    st.floats(0.05, 100.0),
    st.sampled_from([0.001, 0.02, 0.1]),
    st.floats(1, 9),
)
def test_bracket_encloses_the_crossing_within_the_tolerance(truth, start, tolerance, steepness):
    found = search(
        (start,),
        lambda rate: (rate / truth) ** steepness,
        target=Target(tolerance=tolerance),
        duration_s=3600.0,
    )
    assert isinstance(found, Bracket)
    assert found.sustained <= truth <= found.exceeded
    assert found.exceeded <= found.sustained * (1 + tolerance)
    assert found.sustained <= found.capacity <= found.exceeded
    assert len(found.probes) <= 15 + math.log2(1 / tolerance)


@given(
    st.floats(0.5, 50.0),
    st.lists(st.floats(0.5, 50.0), min_size=2, max_size=12, unique_by=lambda rate: f"{rate:.4g}"),
    st.floats(1, 9),
)
def test_a_figures_rates_go_first_and_narrow_the_search(truth, rates, steepness):
    ladder = sorted(float(f"{rate:.4g}") for rate in rates)
    found = search(
        ladder, lambda rate: (rate / truth) ** steepness, target=Target(), duration_s=3600.0
    )
    assert isinstance(found, Bracket)
    assert found.sustained <= truth <= found.exceeded <= found.sustained * 1.02
    asked = [rate for rate, _ in found.probes]
    assert len(set(asked)) == len(asked)
    first = [rate for rate in asked if rate in ladder]
    assert asked[: len(first)] == first
    assert len(first) <= len(ladder).bit_length()


def test_points_left_are_about_those_that_follow():
    known: dict[float, float] = {}
    told = []
    while isinstance(found := search((1.0, 2.0, 4.0, 6.0), known.get, **WIDE), Wanted):
        told.append(found.left)
        known[found.rate] = found.rate / 3.3
    for left, truth in zip(told, range(len(told), 0, -1), strict=True):
        assert abs(left - truth) <= 2


def test_points_of_the_figure_are_used_again(store):
    """Of the figure's own seed, a search runs only what lies between two of its rates."""
    wanted = search_of(PANEL, "astra", Choice())
    for rate in wanted.rates:
        put(store, replace(wanted.spec, rate=rate))
    sought = run_searches(
        store, [wanted], target=Target(), seeds=1, place=LocalProcesses(run=serve)
    )
    ran = {spec.rate for summary in sought.summaries for spec in summary.done}
    used = {spec.rate for summary in sought.summaries for spec in summary.skipped}
    assert used
    assert used <= set(wanted.rates)
    assert not ran & set(wanted.rates)


def test_sustained_is_strictly_below_the_limit():
    found = search((2.0,), lambda rate: rate / 2.0, target=Target(), duration_s=600.0)
    assert isinstance(found, Bracket)
    assert found.exceeded == 2.0


def test_search_asks_for_what_it_does_not_know_and_goes_on_from_it():
    known: dict[float, float] = {}
    asked = []
    while True:
        found = search((1.0,), known.get, target=Target(), duration_s=600.0)
        if isinstance(found, Bracket):
            break
        assert isinstance(found, Wanted)
        asked.append(found.rate)
        known[found.rate] = found.rate / 3.0
    assert asked == [rate for rate, _ in found.probes]
    assert len(set(asked)) == len(asked)


def test_limit_moves_the_capacity():
    for limit in (0.5, 2.0):
        found = search((1.0,), lambda rate: rate, target=Target(limit), duration_s=600.0)
        assert isinstance(found, Bracket)
        assert found.capacity == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize(("latency", "words"), [(5.0, "even at"), (0.01, "lower --limit")])
def test_a_limit_that_no_rate_crosses_is_told(latency, words):
    with pytest.raises(UserError, match=words):
        search((1.0,), lambda rate: latency, target=Target(), duration_s=600.0)


@pytest.mark.parametrize("values", [(0.0, 0.02), (-1.0, 0.02), (1.0, 0.0), (1.0, 0.9)])
def test_impossible_targets_are_refused(values):
    with pytest.raises(UserError, match="must be"):
        Target(*values)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (30, 2.04227)],
)
def test_quantiles_of_student(degrees, expected):
    assert t_quantile(degrees) == pytest.approx(expected, rel=1e-5)


def test_mean_over_seeds_and_its_interval():
    one = geometric_mean([2.0])
    assert (one.value, one.interval) == (2.0, None)
    mean = geometric_mean([2.0, 4.0, 8.0])
    assert mean.value == pytest.approx(4.0)
    assert mean.interval is not None
    half = 4.30265 * math.log(2) / math.sqrt(3)
    assert mean.interval == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-5)


def test_points_are_kept_and_a_search_resumes_from_them(store):
    first = run_searches(
        store, [SEARCH], target=Target(tolerance=0.3), seeds=1, place=LocalProcesses(run=serve)
    )
    again = run_searches(
        store, [SEARCH], target=Target(tolerance=0.1), seeds=1, place=LocalProcesses(run=serve)
    )
    found = again.found[SPEC]
    assert found.mean.value == pytest.approx(capacity_of("astra"), rel=0.1)
    ran = [spec for summary in again.summaries for spec in summary.done]
    skipped = [spec for summary in again.summaries for spec in summary.skipped]
    assert set(skipped) == set(first.found[SPEC].specs)
    assert {*ran, *skipped} == set(found.specs)
    assert ran


def test_each_seed_is_searched_and_gives_an_interval(store):
    sought = run_searches(
        store, [SEARCH], target=Target(), seeds=2, place=LocalProcesses(run=serve)
    )
    found = sought.found[SPEC]
    assert sorted(found.brackets) == [0, 1]
    for seed, bracket in found.brackets.items():
        assert bracket.capacity == pytest.approx(capacity_of("astra", seed), rel=0.02)
    low, high = found.mean.interval or (math.nan, math.nan)
    assert low < capacity_of("astra") < high
    assert found.devices == ("1x made-up",)


def test_a_failing_point_ends_the_searches_with_its_error(store):
    sought = run_searches(
        store, [SEARCH], target=Target(), seeds=3, place=LocalProcesses(run=refuse_two)
    )
    assert sought.found == {}
    assert sought.failed is not None
    assert sought.failed.exit_status == 1
    assert [failure.error for failure in sought.failed.failed] == ["not with this seed"]


def test_an_unfinished_search_gives_nothing(store):
    put(store, SPEC)
    assert stored_search(store, SEARCH) is None
    fill_search(store, SEARCH, seeds=2)
    found = stored_search(store, SEARCH)
    assert found is not None
    assert sorted(found.brackets) == [0, 1]


def test_claims_rest_on_searches_where_both_are_finished(store):
    claim = next(c for c in registry.FIGURES["fig12"].claims if c.args.get("panel") == PANEL)
    (pair,) = pairs_of(claim)
    fill_search(store, search_of(PANEL, pair.over, Choice()), seeds=3)
    assert StoredSearches(store, Choice()).measure(claim) is None
    fill_search(store, search_of(PANEL, pair.under, Choice()), seeds=2)
    found = StoredSearches(store, Choice()).measure(claim)
    assert found is not None
    assert found.estimate is not None
    truth = capacity_of(pair.over) / capacity_of(pair.under)
    assert found.estimate.value == pytest.approx(truth, rel=0.02)
    assert found.seeds == (0, 1)
    assert found.method == "searched"
    assert found.interval is not None


def test_report_tells_which_way_a_verdict_came(store):
    for pair in pairs_in(registry.find(PANEL)):
        for system in (pair.over, pair.under):
            fill_search(store, search_of(PANEL, system, Choice()), seeds=1)
    report = build_report(store, Choice())
    methods = {v.measurement.method for v in report.verdicts if v.claim.args.get("panel") == PANEL}
    assert methods == {"searched"}
    assert report.summary.num_points > 0


def test_a_part_of_a_figure_searches_its_own_panels_only():
    assert {pair.panel for pair in pairs_in(registry.find(PANEL))} == {PANEL}
    assert len({pair.panel for pair in pairs_in(registry.find("fig12"))}) == 3


def invoke(*words: str):
    return CliRunner().invoke(command, words, catch_exceptions=True)


def test_command_prints_one_object(tmp_path):
    done = invoke(
        *("--system", "astra", "--workload", "alpaca", "--kv-slots", "2048", "--duration", "20"),
        *("--warmup", "0", "--backend", "sim", "--rate", "4", "--tolerance", "0.5", "--seeds", "1"),
        *("--limit", "0.1", "--artifacts", str(tmp_path), "--json", "--quiet"),
    )
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    (seed,) = values["by_seed"]
    assert seed["sustained_req_s"] < values["capacity_req_s"] <= seed["exceeded_req_s"]
    assert values["interval_95_req_s"] is None
    below = [p for p in seed["probes"] if p["rate"] <= seed["sustained_req_s"]]
    assert all(p["mean_normalized_latency_s"] < 0.1 for p in below)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "say what to search"),
        (("--system", "astra", "--limit", "-1"), "limit must be positive"),
        (("--system", "astra", "--timeout", "5"), "omit --timeout"),
        (("--system", "astra", "--full"), "--full goes with --figure"),
        (("--figure", "fig12", "--model", "opt-66b"), "omit --model"),
        (("--figure", "fig2"), "no claim of 'fig2'"),
        (("--figure", "fig99"), "fig99"),
    ],
)
def test_bad_input_is_one_clear_line(words, expected, tmp_path):
    done = invoke(*words, "--artifacts", str(tmp_path))
    assert isinstance(done.exception, UserError), done.output
    assert expected in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not list(tmp_path.iterdir())
