from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from command_line import bench, passed

from bench import machine
from bench.devices import doctor
from bench.docker.checks import Finding, Level
from engines.core.config import GIB


def test_this_machine_serves(tmp_path: Path) -> None:
    place = tmp_path / "artifacts"
    result = passed("doctor", "--artifacts", place, "--json")
    found = {line["name"]: line for line in json.loads(result.stdout)}
    assert {"Python", "numpy", "click", "cores", "memory", "disk", "artifacts", "git", "GPU",
            "Docker", "Ray"} <= set(found)  # fmt: skip
    assert not any(line["level"] == "fail" for line in found.values())
    assert not place.exists()
    table = passed("doctor", "--artifacts", place)
    assert "numpy" in table.stdout


def test_a_place_that_cannot_be_written_fails_with_a_remedy(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    result = bench("doctor", "--artifacts", blocked / "artifacts", "--json")
    assert result.exit_code == 1
    failed = [line for line in json.loads(result.stdout) if line["level"] == "fail"]
    assert [line["name"] for line in failed] == ["artifacts"]
    assert "--artifacts" in failed[0]["remedy"]


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (doctor.check_python((3, 10, 9)), Level.FAIL),
        (doctor.check_python((3, 11, 0)), Level.OK),
        (doctor.check_package("numpy", found=None, least="1.26"), Level.FAIL),
        (doctor.check_package("numpy", found="1.9.3", least="1.26"), Level.FAIL),
        (doctor.check_package("numpy", found="2.0.0rc1", least="1.26"), Level.OK),
        (next(doctor.check_packages("no-such-distribution")), Level.FAIL),
        (doctor.check_cores(1), Level.WARN),
        (doctor.check_memory(GIB // 2), Level.WARN),
        (doctor.check_memory(1 << 50), Level.OK),
        (doctor.check_ray(None), Level.OK),
        (doctor.check_ray("2.9.3"), Level.WARN),
        (doctor.check_ray("2.60.0"), Level.OK),
    ],
)
def test_levels_follow_what_is_found(found: Finding, level: Level) -> None:
    assert found.level is level
    assert found.remedy or level is Level.OK


def test_ray_is_optional_but_not_too_old() -> None:
    absent = doctor.check_ray(None)
    assert (absent.level, absent.found) == (Level.OK, "not installed (optional)")
    assert absent.remedy.startswith(f"pip install 'ray>={doctor.MIN_RAY}'")
    extras = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["ray"] == [f"ray>={doctor.MIN_RAY}"]


def test_a_clone_of_another_user_is_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git refuses it as of "dubious ownership"; cloning again would not help."""
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    (tmp_path / "bench").mkdir()
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    monkeypatch.setattr(doctor.bench, "__file__", str(tmp_path / "bench" / "__init__.py"))
    assert doctor.check_git().level is Level.OK
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    found = doctor.check_git()
    assert found.level is Level.WARN
    assert "another user's" in found.found
    assert found.remedy == f"git config --global --add safe.directory {tmp_path}"
