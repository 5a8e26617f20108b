"""Bounds of the claims that miss: what is free is free, and what is compared is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.claims.evidence import pairs_of
from bench.experiments.registry import FIGURES
from engines.core.models import find_model
from engines.sim.cost import StepCost, Work
from engines.sim.profile import load_profile
from tools.bounds import PANELS, RATIOS, VARIANTS, rate, write_profiles

WORK = Work(prompts=1, prompt_tokens=100, decodes=30, groups=10, context_tokens=9000,
            prompt_squares=10_000)  # fmt: skip


def seconds(folder: Path, number: int) -> float:
    profile = load_profile(str(folder / f"a100-40gb-{number}.toml"))
    cost = StepCost(
        find_model("opt-13b"), profile, tensor_parallel=1, block_size=16, python_host=True
    )
    return cost.seconds(WORK)


def test_prices_that_are_free_cost_nothing(tmp_path: Path) -> None:
    write_profiles(tmp_path)
    priced, *freed = (seconds(tmp_path, number) for number in range(len(VARIANTS)))
    assert all(one < priced for one in freed)
    model, profile = find_model("opt-13b"), load_profile("a100-40gb")
    weights_s = model.num_parameters * model.dtype_bytes / profile.weight_bandwidth
    assert freed[-1] == pytest.approx(weights_s)


def test_bounds_are_of_ratios_that_are_claimed() -> None:
    claims = [claim for figure in FIGURES.values() for claim in figure.claims]
    pairs = {(pair.panel, pair.under) for claim in claims for pair in pairs_of(claim)}
    assert set(RATIOS.values()) <= pairs
    for panel, under in RATIOS.values():
        assert {"astra", under} <= PANELS[panel].keys()


def test_a_free_device_sustains_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.bounds.HOUR_S", 300.0)
    write_profiles(tmp_path)
    priced, *_, free = (rate(tmp_path, name, "fig17-13b-chat", "orca-max") for name in VARIANTS)
    assert free > 1.2 * priced
