"""Make knows what the registry knows, and its help works without an environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bench.experiments import registry

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


# Scripts of the original artifact, by the names that people know.
ORIGINALS = (
    *("fig2", "fig12-13b-sharegpt", "fig12-13b-alpaca", "fig12-66b", "fig12-175b", "fig13"),
    *("fig14-parallel", "fig14-beam", "fig15", "fig16", "fig17"),
    *("fig18-a", "fig18-b", "fig19-a", "fig19-b"),
)


@pytest.mark.parametrize("name", ORIGINALS)
def test_names_of_the_original_are_known(name: str) -> None:
    assert name in registry.names()


@pytest.mark.parametrize("name", registry.names())
def test_every_name_of_the_registry_is_a_target(name: str) -> None:
    done = make("-n", name, "FULL=1", "SEED=3", "FORCE=1")
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if "bench figure" in line]
    words = command.split()
    assert words[words.index("figure") + 1] == name
    assert {"--full", "--force", "--seed"} <= set(words)


def test_a_file_of_a_figures_name_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("fig2", "pyproject.toml", "tools/install.sh"):
        (tmp_path / name).touch()
    done = make("-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "-n", "fig2")
    assert "bench figure fig2" in done.stdout


def test_a_quick_run_is_quick_everywhere() -> None:
    for target in ("fig2", "all-main", "report", "capacity"):
        done = make("-n", target, "QUICK=1")
        commands = [line for line in done.stdout.splitlines() if "bin/bench " in line]
        assert commands
        assert all("--quick" in command for command in commands)


def test_a_cluster_is_used_where_points_run() -> None:
    for target in ("fig2", "all-main", "all", "capacity", "reference"):
        done = make("-n", target, "RAY=10.0.0.1:6379", "JOBS=3")
        first, *_ = [line for line in done.stdout.splitlines() if "bin/bench " in line]
        assert "--ray 10.0.0.1:6379" in first
        assert "--jobs 3" in first
        assert '".[ray]"' in done.stdout
        assert '".[ray]"' not in make("-n", target).stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("fig2", "BACKEND=cpu"), "models"),
        (("fig18-a",), "models"),
        (("fig18-a", "RUNNER=docker"), "base"),
        (("fig2", "BACKEND=cuda", "RUNNER=docker"), "base"),
    ],
)
def test_pytorch_is_installed_where_it_is_used(
    tmp_path: Path, words: tuple[str, ...], what: str
) -> None:
    done = make("-n", *words, f"VENV={tmp_path}")
    assert f"install.sh {tmp_path} {what}" in done.stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [("all", "models"), ("images", "base"), ("bundle bundle-check", "base"),
     ("images fig2", "models"), ("images fig2 RUNNER=docker", "base")],
)  # fmt: skip
def test_a_machine_with_a_gpu_gets_pytorch_unless_images_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, what: str
) -> None:
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = make("-n", *words.split(), f"VENV={tmp_path}/none")
    assert f"install.sh {tmp_path}/none {what}" in done.stdout


def test_help_lists_targets_without_installing(tmp_path: Path) -> None:
    done = make("help", f"VENV={tmp_path}/none")
    assert done.returncode == 0
    assert "make all-main" in done.stdout
    assert not (tmp_path / "none").exists()
