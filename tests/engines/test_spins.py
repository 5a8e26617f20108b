"""How long OpenMP's threads spin is ours to say, unless the user says it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engines import SPINS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, str(SPINS)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "passive"}, "None"),
    ],
    ids=["usual", "count given", "policy given"],
)
def test_the_spin_count_that_torch_finds(given: dict[str, str], expected: str) -> None:
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    mine = {name: value for name, value in os.environ.items() if name not in ours}
    script = "import os, engines; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**mine, **given}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{expected}\n"
