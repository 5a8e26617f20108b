"""Capacity of a curve, and the arithmetic of bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.experiments.capacity import Bound, Estimate, capacity


def test_crossing_is_read_off_the_straight_line():
    found = capacity([1.0, 2.0, 3.0], [0.1, 0.5, 2.5])
    assert found.bound is Bound.EXACT
    assert found.value == pytest.approx(2.25)


def test_a_point_on_the_limit_is_the_capacity():
    assert capacity([1.0, 2.0], [0.5, 1.0]) == Estimate(2.0)


def test_curve_that_never_crosses_gives_a_lower_bound():
    assert capacity([1.0, 2.0], [0.1, 0.99]) == Estimate(2.0, Bound.AT_LEAST)


def test_curve_that_starts_above_gives_an_upper_bound():
    assert capacity([1.0, 2.0], [1.5, 9.0]) == Estimate(1.0, Bound.AT_MOST)


def test_first_crossing_counts_when_noise_makes_several():
    found = capacity([1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 0.5, 1.5])
    assert found == Estimate(1.5)


def test_limit_can_be_chosen():
    assert capacity([1.0, 2.0], [0.0 + 0.1, 0.3], limit_s_per_token=0.2).value == pytest.approx(1.5)


@given(
    st.lists(st.floats(0.01, 10), min_size=2, max_size=8),
    st.floats(0.05, 5),
)
def test_capacity_lies_between_the_rates_that_enclose_it(latencies, limit):
    rates = [float(i + 1) for i in range(len(latencies))]
    found = capacity(rates, latencies, limit_s_per_token=limit)
    assert rates[0] <= found.value <= rates[-1]
    if found.bound is Bound.EXACT:
        below = [x for x, y in zip(rates, latencies, strict=True) if x < found.value]
        assert all(latencies[rates.index(x)] < limit for x in below)


@pytest.mark.parametrize("rates", [[2.0, 1.0], [1.0, 1.0]])
def test_rates_must_rise(rates):
    with pytest.raises(AssertionError, match="rise"):
        capacity(rates, [0.1, 0.2])


@pytest.mark.parametrize(
    ("over", "under", "expected"),
    [
        (Bound.EXACT, Bound.EXACT, Bound.EXACT),
        (Bound.AT_LEAST, Bound.EXACT, Bound.AT_LEAST),
        (Bound.AT_MOST, Bound.EXACT, Bound.AT_MOST),
        (Bound.EXACT, Bound.AT_LEAST, Bound.AT_MOST),
        (Bound.EXACT, Bound.AT_MOST, Bound.AT_LEAST),
        (Bound.AT_LEAST, Bound.AT_MOST, Bound.AT_LEAST),
    ],
)
def test_ratio_of_bounds_is_a_bound(over, under, expected):
    assert Estimate(6.0, over).over(Estimate(2.0, under)) == Estimate(3.0, expected)


@pytest.mark.parametrize("bound", [Bound.AT_LEAST, Bound.AT_MOST])
def test_ratio_open_on_both_sides_is_no_number(bound):
    assert Estimate(6.0, bound).over(Estimate(2.0, bound)) is None


def test_bounds_are_marked_in_print():
    assert str(Estimate(2.0, Bound.AT_LEAST)) == "≥ 2"
    assert str(Estimate(1.2345)) == "1.23"
