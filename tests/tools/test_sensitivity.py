"""The table of sensitivity: a profile with one price changed, and the claims that it is held to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.core.models import find_model
from engines.sim.cost import StepCost, Work
from engines.sim.profile import load_profile
from tools.sensitivity import CLAIMS, CURVES, RANGES, claim_of, profile_text

WORK = Work(prompts=1, prompt_tokens=100, decodes=30, groups=10, beam_groups=5,
            context_tokens=9000, prompt_squares=10_000, copied_tokens=40)  # fmt: skip


@pytest.mark.parametrize("parameter", RANGES)
def test_a_profile_differs_in_one_price(tmp_path: Path, parameter: str) -> None:
    path = tmp_path / "changed.toml"
    shipped = load_profile("a100-80gb")
    path.write_text(profile_text(shipped, {parameter: 1.5}), encoding="utf-8")
    changed = load_profile(str(path))
    expected = replace(shipped, **{parameter: 1.5 * getattr(shipped, parameter)})
    prices = [
        StepCost(
            find_model("opt-175b"), profile, tensor_parallel=8, block_size=16, python_host=True
        )
        for profile in (changed, expected, shipped)
    ]
    seconds = [price.seconds(WORK) + price.fork_seconds(90, 7) for price in prices]
    assert seconds[0] == pytest.approx(seconds[1], rel=1e-12)
    assert seconds[0] != pytest.approx(seconds[2], rel=1e-9)


def test_the_claims_are_the_registry_s() -> None:
    for panel, under in CLAIMS.values():
        assert claim_of(panel, under).measure == "capacity_ratio"
        assert {"astra", under} <= CURVES[panel].keys()
