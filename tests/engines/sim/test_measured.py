"""Pricing by measured steps: what was measured comes back, the rest lies between, or is told."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_devices import write_profile

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines.core.errors import UserError
from engines.sim.cost import Work
from engines.sim.interpolation import Curve, Surface, rising
from engines.sim.measured import MeasuredCost
from engines.sim.profile import load_profile
from engines.sim.steps import StepRow, StepTable, from_csv, to_csv

TIMES = st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6)


def decode(n: int, context: int, seconds: float, system: str = "astra") -> StepRow:
    rounded = round(seconds, 9)
    return StepRow(kind="decode", system=system, sequences=n, context=context, seconds=rounded)


def prompt(n: int, tokens: int, seconds: float, **more: int) -> StepRow:
    counts = {"prompts": 1, "context": 64 * n, **more}
    return StepRow(
        kind="prompt",
        system="astra",
        sequences=n,
        tokens=tokens,
        seconds=round(seconds, 9),
        **counts,
    )


# A device whose decode step takes n + c / 100 ms and whose prompts take 2 ms a token.
ROWS = [
    *(decode(n, c, 1e-3 * (n + c / 100)) for n in (1, 4, 16) for c in (64, 1024)),
    *(prompt(n, t, 1e-3 * (n + 0.64 * n + 2 * t)) for n in (0, 1, 4) for t in (1, 100)),
]


def price(rows: list[StepRow], *, draws: bool = False, block_size: int = 16) -> MeasuredCost:
    table = StepTable("opt-125m", 16, tuple(rows))
    return MeasuredCost(table, "astra", block_size=block_size, draws=draws)


def decode_s(cost: MeasuredCost, n: int, context: int) -> float:
    return cost.decode_seconds(n, context, groups=n, beam_groups=0)


def test_measured_steps_and_those_between_are_reproduced() -> None:
    cost = price(ROWS)
    for n, context in ((1, 64), (16, 1024), (3, 500), (10, 65)):
        assert decode_s(cost, n, context) == pytest.approx(1e-3 * (n + context / 100), rel=1e-12)
    for n, tokens in ((0, 1), (0, 37), (1, 100), (3, 50)):
        work = Work(prompts=1, prompt_tokens=tokens, decodes=n, groups=n + 1,
                    context_tokens=500 if n else 0, prompt_squares=tokens**2)  # fmt: skip
        expected = 1e-3 * (n + (5 if n else 0) + 2 * tokens)
        assert cost.seconds(work) == pytest.approx(expected, rel=1e-12)
    assert cost.outside == 0


def test_beyond_the_measured_the_last_slope_goes_on_and_steps_are_counted() -> None:
    cost = price(ROWS)
    for n, context in ((32, 1024), (16, 5000), (40, 4000)):
        assert decode_s(cost, n, context) == pytest.approx(1e-3 * (n + context / 100), rel=1e-12)
    assert cost.outside == 3
    cost.seconds(Work(prompts=1, prompt_tokens=200, prompt_squares=40_000))
    assert cost.outside == 4


def test_several_prompts_differ_by_their_squares_and_rows_of_logits() -> None:
    square_s, row_s = 1e-7, 4e-3
    rows = [
        *(decode(n, c, 0.01) for n in (1, 4) for c in (64, 256)),
        *(prompt(0, t, 1e-3 * t + square_s * t * t) for t in (1, 16, 512)),
        prompt(0, 16, 0.016 + square_s * 64 + 3 * row_s, prompts=4),
        prompt(0, 16, 0.016 + square_s * (416**2 - 400**2), cached=400),
    ]
    cost = price(rows)
    four = Work(prompts=4, prompt_tokens=16, prompt_squares=64)
    assert cost.seconds(four) == pytest.approx(0.016 + square_s * 64 + 3 * row_s, rel=1e-9)
    cached = Work(prompts=1, prompt_tokens=16, prompt_squares=416**2 - 400**2)
    expected = 0.016 + square_s * (416**2 - 400**2)
    assert cost.seconds(cached) == pytest.approx(expected, rel=1e-9)
    long = Work(prompts=4, prompt_tokens=2048, prompt_squares=4 * 512**2)  # beyond the measured
    expected = 2.048 + square_s * 4 * 512**2 + 3 * row_s
    assert cost.seconds(long) == pytest.approx(expected, rel=1e-9)


def test_choices_copies_and_swaps_are_added() -> None:
    rows = [
        *ROWS,
        StepRow(kind="draw", system="astra", sequences=4, context=256, groups=1, seconds=0.00856),
        StepRow(kind="beam", system="astra", sequences=4, context=256, groups=1, blocks=2,
                seconds=0.00656 + 0.003 + 0.0004),
        StepRow(kind="copy", system="astra", blocks=10, seconds=0.002),
        StepRow(kind="swap_in", system="astra", blocks=10, seconds=0.01),
        StepRow(kind="swap_out", system="astra", blocks=10, seconds=0.03),
    ]  # fmt: skip
    plain = decode_s(price(rows), 4, 256)
    drawn = price(rows, draws=True)
    assert decode_s(drawn, 2, 256) - decode_s(price(rows), 2, 256) == pytest.approx(0.001)
    beams = price(rows).decode_seconds(4, 256, groups=1, beam_groups=1)
    assert beams - plain == pytest.approx(0.003), "its own copies are priced apart"
    work = Work(decodes=4, context_tokens=256, copied_blocks=5, blocks_in=3, blocks_out=4)
    added = 0.001 + 0.003 + 4 * 0.003
    assert price(rows).seconds(work) - plain == pytest.approx(added)
    small = price(rows, block_size=8)
    assert small.seconds(work) - plain == pytest.approx(added / 2), "half as many tokens a block"


@settings(max_examples=60, deadline=None)
@given(times=TIMES, n=st.integers(1, 16), context=st.integers(1, 5000), more=st.integers(0, 300))
def test_more_context_never_takes_less_and_between_sizes_lies_what_is_between(
    times: list[float], n: int, context: int, more: int
) -> None:
    """However noisy the measurements are."""
    sizes = [(n, c) for n in (1, 4, 16) for c in (64, 1024)]
    rows = [decode(*size, seconds) for size, seconds in zip(sizes, times, strict=True)]
    cost = price([*rows, prompt(0, 1, 0.1)])
    here = decode_s(cost, n, context)
    assert decode_s(cost, n, context + more) >= here - 1e-12
    below, above = (1, 4) if n < 4 else (4, 16)
    ends = [decode_s(cost, size, context) for size in (below, above)]
    assert min(ends) - 1e-12 <= here <= max(ends) + 1e-12


@given(TIMES)
def test_rising_values_rise_and_keep_their_sum(values: list[float]) -> None:
    found = rising(values)
    assert all(a <= b + 1e-12 for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
    assert rising(sorted(values)) == sorted(values)


def test_one_point_alone_is_constant() -> None:
    assert Curve([3.0], [2.0]).at(10) == 2.0
    assert Surface([3.0], [5.0], [[2.0]]).at(1, 9) == 2.0


def profile_file(directory: Path, csv: str, **settings: object) -> Path:
    values = {"model": "opt-125m", "block_size": 16, **settings}
    path = write_profile(directory / "here.toml", step_overhead_s=1e-3, element_bytes=4)
    lines = ["[steps]", *(f"{name} = {value!r}" for name, value in values.items())]
    path.write_text("\n".join([path.read_text(), *lines, f"csv = '''\n{csv}'''\n"]))
    return path


def point(profile: Path, **settings: object) -> PointSpec:
    return PointSpec(
        **{"system": "astra", "model": "opt-125m", "rate": 2.0, "duration": 10.0, "kv_slots": 8000,
           "device_profile": str(profile), **settings}
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_profile_s_steps_price_the_model_that_they_were_measured_with(tmp_path: Path) -> None:
    path = profile_file(tmp_path, to_csv(ROWS))
    steps = load_profile(str(path)).steps
    assert steps is not None
    assert list(steps.rows) == ROWS
    outcome = run_point(point(path))
    assert outcome.inputs["device_profile"]["steps"] == "measured"
    assert outcome.metrics["mean_tpot_s"] > 1e-3
    assert outcome.metrics["extrapolated_steps"] > 0, "contexts beyond 1024 tokens"
    other = run_point(point(path, model="opt-1.3b"))
    assert other.inputs["device_profile"]["steps"] == "formula: the measured steps are of opt-125m"
    with pytest.raises(UserError, match="no measured steps of ft"):
        run_point(point(path, system="ft"))
    # A host's times are in the measured steps, so another host needs the formula.
    assert load_profile(str(path), host="none").steps is None


LINE = "decode,astra,1,64,0,0,0,0,0,0.01,5,0.001"
HEADER = to_csv([]).strip()
BAD = {
    "decode,astra": "line 2 has 2 values instead of 12",
    LINE.replace("decode", "dekode"): "kind must be decode, prompt",
    LINE.replace("astra", "orca-max"): "system must be astra, orca, ft",
    LINE.replace("64", "6.5"): "context must be a number of at least 0, got '6.5'",
    LINE.replace("0.01", "nan"): "seconds must be a number of at least 0, got 'nan'",
    LINE.replace("0.01", "-1"): "seconds must be a number of at least 0, got '-1'",
    "": "holds no steps: measure it again with bench profile",
}


@pytest.mark.parametrize("line", BAD)
def test_a_malformed_table_is_one_line_that_names_the_place(tmp_path: Path, line: str) -> None:
    path = profile_file(tmp_path, f"{HEADER}\n{line}\n" if line else f"{HEADER}\n")
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert BAD[line] in str(caught.value)
    assert str(path) in str(caught.value)


def test_other_columns_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must start with the line kind,system"):
        from_csv("a,b\n1,2\n", "x")
    path = profile_file(tmp_path, to_csv(ROWS), block_size="16")
    with pytest.raises(UserError, match=r"steps\.block_size must be a whole number, got '16'"):
        load_profile(str(path))


def test_the_table_s_text_gives_the_rows_again() -> None:
    rows = [replace(row, samples=7, spread=0.125) for row in ROWS]
    assert list(from_csv(to_csv(rows), "x")) == rows
