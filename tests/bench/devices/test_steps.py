"""Measuring engine steps on a device whose step time is a known function."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from bench.devices.steps import Scope, measure_steps
from engines.sim.cost import Work
from engines.sim.measured import MeasuredCost
from engines.sim.steps import StepRow, StepTable

SCOPE = Scope("astra", 64, 512, 16_000, 512, (4,))


@dataclass
class FakeDevice:
    """Steps take a known time, in which a virtual clock moves.

    A sixteenth of the time all are slower by `phases`.
    """

    knee: int = 0  # decode steps of more sequences take twice as long for each further one
    phases: float = 0.0
    now_s: float = 0.0
    asked: list[StepRow] = field(default_factory=list)
    copied_blocks: int = 0
    shared_tokens: int = 0

    def seconds(self, step: StepRow) -> float:
        n, tokens = step.sequences, step.tokens
        extra = max(0, n - self.knee) if self.knee else 0
        base = 10e-3 + 1e-3 * (n + extra) + 1e-6 * step.context if n or tokens else 0.0
        rows = max(0, step.prompts - 1)
        base -= 4e-7 * step.cached * (step.kind == "decode")
        added = {"draw": 2e-4 * n, "beam": 3e-4 * step.groups}.get(step.kind, 0.0)
        moved = 1e-4 * step.blocks
        return base + 1e-3 * tokens + 1e-8 * step.squares + 5e-4 * rows + added + moved

    def time_steps(
        self, wanted: StepRow, samples: int, between: Callable[[], object]
    ) -> list[float]:
        self.asked.append(wanted)
        between()
        self.now_s += samples * self.seconds(wanted)
        phase = 1 + self.phases * (self.now_s % 16 < 1)
        return [phase * self.seconds(wanted)] * samples

    def measure(self, budget_s: float) -> MeasuredCost:
        rows = measure_steps({"astra": self}, [SCOPE], budget_s=budget_s, now=lambda: self.now_s)
        table = StepTable("opt-125m", 16, tuple(rows))
        return MeasuredCost(table, "astra", block_size=16, draws=True)


def test_a_linear_device_is_reproduced_to_rounding() -> None:
    device = FakeDevice()
    cost = device.measure(budget_s=1e3)
    for n, context in ((1, 16), (5, 333), (50, 9000), (64, 1024)):
        expected = 10e-3 + 1e-3 * n + 1e-6 * context + 2e-4 * n
        found = cost.decode_seconds(n, context, groups=n, beam_groups=0)
        assert found == pytest.approx(expected, rel=1e-9)
        shared = cost.decode_seconds(n, context, groups=n, beam_groups=0, shared_tokens=500)
        assert shared == pytest.approx(expected - 2e-4, rel=1e-9)
    tokens = 64  # squares bend the lines between which they and rows of logits are found
    work = Work(prompts=2, prompt_tokens=tokens, decodes=8, context_tokens=512, groups=10,
                prompt_squares=2 * 32**2, copied_blocks=3)  # fmt: skip
    decode = 10e-3 + 8e-3 + 1e-6 * 512 + 2e-4 * 10
    prompts = 1e-3 * tokens + 1e-8 * 2 * 32**2 + 5e-4
    assert cost.seconds(work) == pytest.approx(decode + prompts + 3e-4, rel=1e-4)
    assert cost.outside == 0


def test_a_machine_that_slows_down_is_measured_at_one_speed() -> None:
    """By a piece of work that takes as much longer: the rows are in its units."""
    device, slow = FakeDevice(), 1.0

    class Probe:
        copied_blocks = shared_tokens = 0

        def time_steps(
            self, wanted: StepRow, samples: int, between: Callable[[], object]
        ) -> list[float]:
            nonlocal slow
            found = [slow * each for each in device.time_steps(wanted, samples, between)]
            slow = 1.5 if device.now_s % 40 > 20 else 1.0
            return found

    rows = measure_steps(
        {"astra": Probe()}, [SCOPE], budget_s=1e3, now=lambda: device.now_s,
        unit_s=lambda rows: 0.02 * slow,
    )  # fmt: skip
    assert {row.seconds > 0 for row in rows} == {True}
    for row in rows:
        if row.kind in ("decode", "prompt"):
            assert 0.02 * row.seconds == pytest.approx(device.seconds(row), rel=1e-9)
            assert row.spread == pytest.approx(0, abs=1e-9)


def test_sizes_are_added_where_the_interpolation_errs_and_only_there() -> None:
    device = FakeDevice(knee=21)
    cost = device.measure(budget_s=1e3)
    sizes = {row.sequences for row in device.asked if row.kind == "decode"}
    added = sizes - {1, 2, 4, 8, 16, 32, 64}
    assert any(16 < n < 32 for n in added)
    for n in range(1, 65):
        step = StepRow(kind="decode", system="astra", sequences=n, context=200 * n, seconds=0.0)
        found = cost.decode_seconds(n, 200 * n, groups=n, beam_groups=0) - 2e-4 * n
        assert found == pytest.approx(device.seconds(step), rel=0.02)


def test_a_step_has_its_mean_time_and_an_outlier_counts_as_one_and_a_half() -> None:
    class Probe:
        copied_blocks = shared_tokens = 0

        def time_steps(
            self, wanted: StepRow, samples: int, between: Callable[[], object]
        ) -> list[float]:
            between()
            return [0.02, 0.022, 0.018, 0.5]

    rows = measure_steps({"astra": Probe()}, [SCOPE], samples=4, budget_s=0.0)
    assert [row.seconds for row in rows] == pytest.approx([(0.06 + 1.5 * 0.021) / 4] * len(rows))


def test_slow_phases_of_the_machine_add_no_sizes_and_count_as_long_as_they_last() -> None:
    """Over whole phases: where a step falls in one is chance, so the measuring begins at many."""
    ratios: dict[int, list[float]] = {n: [] for n in range(1, 65)}
    for begin_s in range(0, 16, 2):
        device = FakeDevice(phases=0.3, now_s=begin_s)
        cost = device.measure(budget_s=600.0)
        sizes = {row.sequences for row in device.asked if row.kind == "decode"}
        assert len(sizes) < 24, "of 64, 12 of them always"
        for n, found in ratios.items():
            step = StepRow(kind="decode", system="astra", sequences=n, context=200 * n, seconds=0.0)
            seconds = cost.decode_seconds(n, 200 * n, groups=n, beam_groups=0) - 2e-4 * n
            found.append(seconds / device.seconds(step))
    means = [statistics.fmean(found) for found in ratios.values()]
    assert max(means) < 1.1
    assert statistics.fmean(means) == pytest.approx(1 + 0.3 / 16, abs=0.01)


def test_the_time_is_kept_and_the_coarse_grid_is_measured_anyway() -> None:
    hasty, patient = FakeDevice(knee=21), FakeDevice(knee=21)
    hasty.measure(budget_s=0.0)
    patient.measure(budget_s=60.0)
    assert len(hasty.asked) == len(set(hasty.asked)), "nothing twice"
    longest = max(3 * patient.seconds(step) for step in patient.asked)
    assert 60.0 <= patient.now_s < 60.0 + longest, "all are repeated until the time is up"


def test_systems_are_measured_in_turns_after_their_sizes_are_found() -> None:
    """So that no system's table is of one minute of the machine alone."""
    device = FakeDevice()
    scopes = [replace(SCOPE, system=system, share=0.5) for system in ("astra", "orca")]
    measure_steps(
        dict.fromkeys(("astra", "orca"), device), scopes, budget_s=1e3, now=lambda: device.now_s
    )
    later = [step.system for step in device.asked[len(device.asked) // 2 :]]
    changes = sum(one != two for one, two in pairwise(later))
    assert changes == pytest.approx(len(later) / 2, rel=0.2)
