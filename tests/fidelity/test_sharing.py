"""What sharing saves on Alpaca in the simulation against the paper's Figure 15."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.experiments.registry import FIGURES, find_panel
from bench.point.serve import run_point

PAPER = {claim.path: claim.paper for claim in FIGURES["fig15"].claims}


@pytest.mark.parametrize(
    ("sampling", "points"),
    [
        ("n2", 1.5),
        ("n4", 1.5),
        ("n6", 1.5),
        ("beam2", 5.0),
        ("beam4", 5.0),
        ("beam6", 5.0),
    ],
)
def test_savings_on_alpaca(sampling: str, points: float) -> None:
    (spec,) = find_panel(f"fig15-alpaca-{sampling}").points()
    if sampling.startswith("beam"):  # settles sooner, and takes longer to simulate
        spec = replace(spec, duration=300.0, timeout=300.0, window=(100.0, 300.0))
    saving = run_point(spec).metrics["sharing_saving_pct"]
    assert saving == pytest.approx(PAPER[f"fig15:alpaca:{sampling}"], abs=points)
