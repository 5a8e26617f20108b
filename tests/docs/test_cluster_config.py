"""The cloud cluster's description is valid to Ray, and its commands to what they call."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "cluster-aws.yaml"
GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
STEPS = (
    *("setup_commands", "head_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    import yaml

    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def commands(config: dict[str, Any]) -> list[str]:
    return [command for step in STEPS for command in config[step]]


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert {name: kind.get("min_workers", 0) for name, kind in types.items()} == {
        "head": 0,
        "a100-40gb": 1,
        "a100-80gb": 1,
    }
    assert sum(kind["max_workers"] for name, kind in types.items() if name != "head") == 2
    assert len({kind["node_config"]["ImageId"] for kind in types.values()}) == 1


def test_a_shell_accepts_its_commands(config: dict[str, Any]) -> None:
    for command in commands(config):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_ray_start_knows_its_options(config: dict[str, Any]) -> None:
    start = importlib.import_module("ray.scripts.scripts").start
    known = {option for parameter in start.params for option in parameter.opts}
    lines = [c for c in commands(config) if "ray start" in c]
    lines += re.findall(r"^\S*ray start .*$", GUIDE, re.M)
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.partition("ray start")[2])
        given = {word.partition("=")[0] for word in words}
        assert given <= known, line
        assert "--disable-usage-stats" in given


def test_what_it_makes_builds_and_copies_is_there(config: dict[str, Any]) -> None:
    mounts = dict(config["file_mounts"])
    assert (ROOT / mounts.pop("~/artifact") / "Makefile").exists()
    assert mounts == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert all("RAY_AUTH_MODE=token" in c for c in commands(config) if "ray start" in c)
    targets = re.findall(r"make (install|all) (BACKEND=\w+)", "\n".join([*commands(config), GUIDE]))
    assert len(targets) >= 4
    for target in set(targets):
        done = subprocess.run(["make", "-n", *target], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    (module,) = {m for c in commands(config) for m in re.findall(r"-m (engines\S+)", c)}
    assert importlib.util.find_spec(module) is not None


def test_one_version_of_ray_everywhere(config: dict[str, Any]) -> None:
    import ray

    text = "\n".join([*commands(config), FILE.read_text(encoding="utf-8"), GUIDE])
    assert set(re.findall(r"ray(?:\[default\])?==([\d.]+)", text)) == {"2.60.0"}
    wanted = re.search(r'^ray = \["ray>=([\d.]+)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert wanted is not None
    numbers = [tuple(map(int, v.split("."))) for v in (wanted[1], "2.60.0", ray.__version__)]
    assert numbers[0] <= min(numbers[1:])


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", GUIDE))))
def test_every_linked_file_exists(path: str) -> None:
    assert (FILE.parent / path).exists()
