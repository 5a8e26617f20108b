"""Make knows what the registry knows, and its help works without an environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.experiments import registry

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", sorted({*registry.FIGURES, *registry.PARTS, *registry.GROUPS}))
def test_every_figure_part_and_group_is_a_target(name: str) -> None:
    done = make("-n", name, "FULL=1", "SEED=3", "FORCE=1")
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if "bench figure" in line]
    words = command.split()
    assert words[words.index("figure") + 1] == name
    assert {"--full", "--force", "--seed"} <= set(words)


def test_help_lists_targets_without_installing(tmp_path: Path) -> None:
    done = make("help", f"VENV={tmp_path}/none")
    assert done.returncode == 0
    assert "make all-main" in done.stdout
    assert not (tmp_path / "none").exists()
