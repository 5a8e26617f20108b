"""Bounds of the claims that miss: what is free is free, and what is compared is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.claims.evidence import pairs_of
from bench.experiments.registry import FIGURES
from engines.core.models import find_model
from engines.sim.cost import StepCost, Work
from engines.sim.profile import load_profile
from tools.bounds import PANELS, RATIOS, VARIANTS
from tools.sensitivity import profile_text, sustained

WORK = Work(prompts=1, prompt_tokens=100, decodes=30, groups=10, context_tokens=9000,
            prompt_squares=10_000)  # fmt: skip


def seconds(path: Path, changes: Mapping[str, float]) -> float:
    path.write_text(profile_text(load_profile("a100-40gb"), changes), encoding="utf-8")
    profile = load_profile(str(path))
    cost = StepCost(
        find_model("opt-13b"), profile, tensor_parallel=1, block_size=16, python_host=True
    )
    return cost.seconds(WORK)


def test_prices_that_are_free_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "changed.toml"
    priced, *freed = (seconds(path, changes) for changes in VARIANTS.values())
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


def test_a_free_device_sustains_more() -> None:
    priced, *_, free = VARIANTS.values()
    about = PANELS["fig17-13b-chat"]["orca-max"]
    before, after = (
        sustained("fig17-13b-chat", "orca-max", about, changes, 300.0) for changes in (priced, free)
    )
    assert after > 1.2 * before
