"""Bisection of the rate: the bracket, the order of the rates, what it asks for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.claims.bisection import Bracket, Target, Wanted, bisect
from engines.core.errors import UserError

WIDE = {"target": Target(), "duration_s": 600.0}


@given(
    st.floats(0.05, 100.0),
    st.floats(0.05, 100.0),
    st.sampled_from([0.001, 0.02, 0.1]),
    st.floats(1, 9),
)
def test_bracket_encloses_the_crossing_within_the_tolerance(truth, start, tolerance, steepness):
    found = bisect(
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
    found = bisect(
        ladder, lambda rate: (rate / truth) ** steepness, target=Target(), duration_s=3600.0
    )
    assert isinstance(found, Bracket)
    assert found.sustained <= truth <= found.exceeded <= found.sustained * 1.02
    asked = [rate for rate, _ in found.probes]
    assert len(set(asked)) == len(asked)
    first = [rate for rate in asked if rate in ladder]
    assert asked[: len(first)] == first
    assert len(first) <= len(ladder).bit_length()


@pytest.mark.parametrize("rates", [(1.0,), (1.0, 2.0, 4.0, 6.0)])
def test_a_search_asks_for_what_it_does_not_know_and_resumes_from_it(rates):
    known: dict[float, float] = {}
    asked, left = [], []
    while isinstance(found := bisect(rates, known.get, **WIDE), Wanted):
        asked.append(found.rate)
        left.append(found.left)
        known[found.rate] = found.rate / 3.3
    assert asked == [rate for rate, _ in found.probes]
    assert len(set(asked)) == len(asked)
    if len(rates) > 1:
        assert all(abs(n - len(left) + i) <= 2 for i, n in enumerate(left))


def test_sustained_is_strictly_below_the_limit():
    assert bisect((2.0,), lambda rate: rate / 2.0, **WIDE).exceeded == 2.0


@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_limit_moves_the_capacity(limit):
    found = bisect((1.0,), lambda rate: rate, target=Target(limit), duration_s=600.0)
    assert found.capacity == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize(("latency", "words"), [(5.0, "even at"), (0.01, "lower --limit")])
def test_a_limit_that_no_rate_crosses_is_an_error(latency, words):
    with pytest.raises(UserError, match=words):
        bisect((1.0,), lambda rate: latency, **WIDE)
