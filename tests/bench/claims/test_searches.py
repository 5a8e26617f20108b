"""Capacity searches: kept points, seeds and their intervals, the claims' ratios, the command."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import islice

import capacity_fakes
import pytest
from capacity_fakes import DEVICE, capacity_of, fill, put, refuse_two, serve
from click.testing import CliRunner

from bench.claims.bisection import Search, Target, Wanted
from bench.claims.deciding import FEWEST_SEEDS, MOST_SEEDS, decide
from bench.claims.evidence import Evidence, pairs_in, pairs_of, search_of
from bench.claims.intervals import geometric_mean, t_quantile
from bench.claims.measures import capacity_ratio
from bench.claims.searches import (
    SearchRun,
    bisect_seeds,
    probe_spec,
    run_searches,
    stored_search,
)
from bench.claims.verdicts import table
from bench.commands.capacity import command
from bench.commands.figure import command as figure
from bench.experiments import registry
from bench.experiments.effort import Effort
from bench.experiments.model import Claim
from bench.experiments.tables import Choice
from bench.point.spec import PointSpec
from bench.results.store import Store
from bench.sweep.local import LocalProcesses
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", rate=1.0, duration=600.0)
SEARCH = Search(SPEC, (SPEC.rate,))
PANEL = "fig12-13b-sharegpt"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, source="present")


def fill_search(store: Store, wanted: Search, seeds: int) -> None:
    def latency_at(seed: int, rate: float) -> float:
        return put(store, probe_spec(wanted.spec, seed, rate))

    list(islice(bisect_seeds(wanted, latency_at, target=Target()), seeds))


def run(store: Store, wanted: Search, *, seeds: int, tolerance: float = 0.02, serve=serve):
    place = LocalProcesses(run=serve)
    return run_searches(store, {wanted: seeds}, target=Target(1.0, tolerance), place=place)


def points(done: SearchRun, kind: str) -> list[PointSpec]:
    return [spec for summary in done.rounds for spec in getattr(summary, kind)]


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
    half = 4.30265 * math.log(2) / math.sqrt(3)
    assert mean.interval == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-5)


def test_points_of_the_figure_are_used_again(store):
    """Of the figure's own seed, a search runs only what lies between two of its rates."""
    wanted = search_of(PANEL, "astra", Choice())
    for rate in wanted.rates:
        put(store, replace(wanted.spec, rate=rate))
    done = run(store, wanted, seeds=1)
    used = {spec.rate for spec in points(done, "skipped")}
    assert used
    assert used <= set(wanted.rates)
    assert not {spec.rate for spec in points(done, "done")} & set(wanted.rates)


def test_points_are_kept_and_a_search_resumes_from_them(store):
    first = run(store, SEARCH, seeds=1, tolerance=0.3)
    again = run(store, SEARCH, seeds=1, tolerance=0.1)
    found = again.found[SEARCH]
    assert found.mean.value == pytest.approx(capacity_of("astra"), rel=0.1)
    ran, skipped = points(again, "done"), points(again, "skipped")
    assert set(skipped) == set(first.found[SEARCH].specs)
    assert {*ran, *skipped} == set(found.specs)
    assert ran


def test_each_seed_is_searched_and_gives_an_interval(store):
    found = run(store, SEARCH, seeds=2).found[SEARCH]
    assert sorted(found.brackets) == [0, 1]
    for seed, bracket in found.brackets.items():
        assert bracket.capacity == pytest.approx(capacity_of("astra", seed), rel=0.02)
    low, high = found.mean.interval
    assert low < capacity_of("astra") < high
    assert found.devices == (DEVICE,)


def test_other_seeds_start_at_the_capacity_of_the_first(store):
    """The first seed narrows the search; each of the others needs a few rates about its result."""
    done = run(store, SEARCH, seeds=3).found[SEARCH]
    first, *others = done.brackets.values()
    for bracket in others:
        assert bracket.probes[0][0] == first.exceeded
        assert len(bracket.probes) < len(first.probes)
    unknown = list(islice(bisect_seeds(SEARCH, lambda *_: None, target=Target()), 3))
    assert [(seed, type(one)) for seed, one in unknown] == [(0, Wanted)]


def decided(store: Store, claims: list[Claim], *, effort: Effort, noise: float) -> SearchRun:
    serve = partial(capacity_fakes.serve_with_noise, noise=noise)
    choice = Choice.of(effort=effort)
    return decide(store, claims, choice, place=LocalProcesses(run=serve))


@pytest.mark.parametrize(
    ("effort", "noise", "seeds"),
    [
        (Effort.FULL, 0.0, FEWEST_SEEDS),  # 2.0 of every seed: decided
        (Effort.FULL, 0.4, 5),  # apart: more seeds are asked for, as many as decide it
        (Effort.FULL, 0.6, MOST_SEEDS),
        (Effort.SHORT, 0.0, MOST_SEEDS),  # short traces have them from the start
    ],
)
def test_a_claim_gets_as_many_seeds_as_decide_it(store, effort, noise, seeds):
    claims = [c for c in registry.FIGURES["fig12"].claims if c.args.get("panel") == PANEL][:1]
    done = decided(store, claims, effort=effort, noise=noise)
    assert {tuple(found.brackets) for found in done.found.values()} == {tuple(range(seeds))}
    evidence = Evidence(store, Choice.of(effort=effort))
    measured = capacity_ratio(evidence, **claims[0].args)
    assert (measured.method, len(measured.seeds)) == ("searched", seeds)


def test_a_failing_point_ends_the_searches_with_its_error(store):
    done = run(store, SEARCH, seeds=3, serve=refuse_two)
    assert done.found == {}
    assert done.failed.exit_status == 1
    assert [failure.error for failure in done.failed.failed] == ["not with this seed"]


def test_an_unfinished_search_gives_nothing(store):
    put(store, SPEC)
    assert stored_search(store, SEARCH) is None
    fill_search(store, SEARCH, seeds=2)
    found = stored_search(store, SEARCH)
    assert sorted(found.brackets) == [0, 1]


def test_claims_rest_on_searches_where_both_are_finished(store):
    claim = next(c for c in registry.FIGURES["fig12"].claims if c.args.get("panel") == PANEL)
    (pair,) = pairs_of(claim)
    fill_search(store, search_of(PANEL, pair.over, Choice()), seeds=3)
    assert capacity_ratio(Evidence(store, Choice()), **claim.args).method != "searched"
    fill_search(store, search_of(PANEL, pair.under, Choice()), seeds=2)
    found = capacity_ratio(Evidence(store, Choice()), **claim.args)
    truth = capacity_of(pair.over) / capacity_of(pair.under)
    assert found.estimate.value == pytest.approx(truth, rel=0.02)
    assert (found.seeds, found.method) == ((0, 1), "searched")
    assert found.interval is not None


def test_the_verdict_table_tells_which_way_a_number_came(store):
    pairs = pairs_in(registry.find(PANEL))
    for system in {system for pair in pairs for system in (pair.over, pair.under)}:
        fill_search(store, search_of(PANEL, system, Choice()), seeds=1)
    evidence = Evidence(store, Choice())
    rows = table(evidence).set_index(["path", "claim"])
    claims = [c for c in registry.FIGURES["fig12"].claims if c.args.get("panel") == PANEL]
    assert {rows.loc[(claim.path, claim.text), "method"] for claim in claims} == {"searched"}
    assert evidence.specs


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


def test_a_figures_command_searches_what_its_claims_compare(tmp_path):
    store = Store(tmp_path)
    fill(store, "fig17")
    words = ("fig17", "--no-plot", "--backend", "sim", "--artifacts", str(tmp_path), "--quiet")
    told = CliRunner().invoke(figure, (*words, "--dry-run")).stdout
    assert "then bisections for 3 claims about sustained rates" in told
    assert "bisections" not in CliRunner().invoke(figure, (*words, "--dry-run", "--quick")).stdout
    curves = {(pair.panel, s) for pair in pairs_in(registry.find("fig17")) for s in pair[1:]}
    points = set(registry.find("fig17").figures[0].points())
    for panel, system in curves:
        fill_search(store, search_of(panel, system, Choice()), seeds=FEWEST_SEEDS)
        points |= set(stored_search(store, search_of(panel, system, Choice())).specs)
    done = CliRunner().invoke(figure, words)
    assert done.exit_code == 0, done.output
    assert f"points: {len(points)} already complete" in done.stderr


@pytest.mark.parametrize("as_json", [True, False])
def test_command_searches_the_curves_behind_a_figures_claims(tmp_path, as_json):
    store = Store(tmp_path)
    for pair in pairs_in(registry.find("fig17")):
        for system in (pair.over, pair.under):
            fill_search(store, search_of(pair.panel, system, Choice()), seeds=2)
    words = ("--figure", "fig17", "--seeds", "2", "--artifacts", str(tmp_path), "--quiet")
    done = invoke(*words, *(["--json"] if as_json else []))
    assert done.exit_code == 0, done.output
    if not as_json:
        assert "mean over seeds" in done.stdout
        return
    values = json.loads(done.stdout)
    assert {curve["system"] for curve in values["curves"]} >= {"astra", "orca-oracle"}
    for ratio in values["ratios"]:
        truth = capacity_of(ratio["over"]) / capacity_of(ratio["under"])
        assert ratio["mean"] == pytest.approx(truth, rel=0.05)
        assert sorted(ratio["by_seed"]) == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "say what to search"),
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


@pytest.mark.parametrize(
    ("option", "value"),
    [("--limit", "0"), ("--limit", "-1"), ("--tolerance", "0"), ("--tolerance", "0.9")],
)
def test_impossible_targets_are_refused(option, value, tmp_path):
    done = invoke("--system", "astra", option, value, "--artifacts", str(tmp_path))
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr
    assert not list(tmp_path.iterdir())
