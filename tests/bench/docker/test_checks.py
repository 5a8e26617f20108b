from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import docker
import pytest
import requests
from command_line import refused

from bench.docker import checks
from bench.docker.checks import Finding, Level, container_findings
from bench.docker.daemon import connect, explain
from bench.docker.gpus import Gpu, find_gpus, parse_gpu, visible
from engines.core.config import GIB
from engines.core.errors import UserError

IDLE = Gpu("GPU-1", "NVIDIA A100-SXM4-40GB", 40 * GIB, 0, "580.95.05")
BUSY = Gpu("GPU-2", "NVIDIA A100-SXM4-40GB", 40 * GIB, 9 * GIB, "580.95.05")
OLD = Gpu("GPU-3", "NVIDIA A100-SXM4-40GB", 40 * GIB, 0, "535.104")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, with a docker program in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    put(folder / "docker", "")
    return folder


def put(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def examine(client: Any, gpus: list[Gpu]) -> dict[str, Finding]:
    def connect(**_: Any) -> Any:
        if isinstance(client, Exception):
            raise client
        return client

    with patch.multiple(checks, connect=connect, find_gpus=lambda: gpus):
        return {f.name: f for f in container_findings()}


def daemon(runtimes: tuple[str, ...] = ("runc", "nvidia")) -> SimpleNamespace:
    return SimpleNamespace(
        close=lambda: None,
        version=lambda: {"Version": "28.1"},
        info=lambda: {"DockerRootDir": "/", "Runtimes": dict.fromkeys(runtimes)},
        images=SimpleNamespace(get=_no_image),
    )


def _no_image(_: str) -> Any:
    raise docker.errors.ImageNotFound("none")


def test_a_machine_for_gpu_containers_is_all_well(programs: Path) -> None:
    found = examine(daemon(), [IDLE, IDLE])
    assert found["GPU"].found == "2x NVIDIA A100-SXM4-40GB 40 GiB"
    assert found["driver"].level is Level.OK
    assert found["NVIDIA runtime"].level is Level.OK
    assert found["Docker"].found == "daemon 28.1"
    for system in ("astra", "orca", "ft"):
        image = found[f"sosp23-{system}:latest"]
        assert (image.found, image.remedy.startswith("make images")) == ("missing", True)


def test_what_is_wrong_has_a_remedy(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_DISK_PER_IMAGE", 1 << 60)
    found = examine(daemon(("runc",)), [OLD, BUSY])
    assert "driver 580.65 or newer" in found["driver"].remedy
    assert "1 in use" in found["GPU"].found
    assert "nvidia-ctk runtime configure" in found["NVIDIA runtime"].remedy
    assert "docker system prune" in found["Docker disk"].remedy
    for name in ("driver", "GPU", "NVIDIA runtime", "Docker disk"):
        assert found[name].level is Level.WARN
    none = examine(UserError("no Docker daemon answers: start it, or do without"), [])
    assert none["Docker"] == Finding(
        *("Docker", Level.WARN, "no Docker daemon answers"),
        "start it, or do without (only containers need it)",
    )
    (programs / "docker").unlink()
    assert examine(daemon(), [])["Docker"].found == "not installed (optional)"


def test_the_toolkits_program_serves_without_a_runtime(programs: Path) -> None:
    put(programs / "nvidia-container-runtime-hook", "")
    assert examine(daemon(("runc",)), [IDLE])["NVIDIA runtime"].level is Level.OK


def test_a_driver_that_shows_no_gpu_is_told(programs: Path) -> None:
    put(programs / "nvidia-smi", "exit 18")
    assert examine(daemon(), [])["GPU"].level is Level.WARN


def test_a_misspelt_build_argument_is_told(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_BUILD_ARGS", "FT_LIBARY=1")
    found = examine(daemon(), [])["images"]
    assert found.found == "unknown build argument 'FT_LIBARY'"
    assert found.remedy.startswith("did you mean FT_LIBRARY")


def test_a_daemon_that_stops_answering_is_told(programs: Path) -> None:
    def info() -> Any:
        raise requests.ReadTimeout("Read timed out.")

    client = daemon()
    client.info = info
    found = examine(client, [])["Docker"]
    assert (found.level, found.found) == (Level.WARN, "Docker does not answer: Read timed out.")
    assert "docker info" in found.remedy


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (requests.ConnectionError("broken"), "Error: Docker does not answer: broken: check"),
        (docker.errors.APIError("no", explanation="odd"), "Error: Docker refuses: odd: check"),
    ],
)
def test_what_docker_says_at_any_time_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(**_: Any) -> Any:
        raise error

    monkeypatch.setattr("bench.docker.daemon.connect", fail)
    assert refused("images", "--list").startswith(line)


def test_a_daemon_that_does_not_run_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="no Docker daemon answers: start it"):
        connect(timeout_s=1)


def test_missing_permission_is_explained() -> None:
    inner = requests.ConnectionError("Connection aborted.")
    inner.__context__ = PermissionError(13, os.strerror(13))
    outer = docker.errors.DockerException("Error while fetching server API version")
    outer.__cause__ = inner
    assert "join the group 'docker'" in explain(outer)
    assert explain(ValueError("odd\nthing")).startswith("Docker does not answer: odd thing:")


def test_gpus_are_read_from_the_drivers_table(programs: Path) -> None:
    assert find_gpus() == []
    put(
        programs / "nvidia-smi", 'echo "GPU-1, NVIDIA A100-SXM4-40GB, 40960, 3, 580.95.05"; echo No'
    )
    (gpu,) = find_gpus()
    assert gpu == Gpu("GPU-1", "NVIDIA A100-SXM4-40GB", 40 * GIB, 3 << 20, "580.95.05")
    assert gpu.idle
    assert parse_gpu("GPU-1, odd, [N/A], 3, 580") is None
    put(programs / "nvidia-smi", "exit 9")
    assert find_gpus() == []


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, "abc"), ("", ""), ("-1", ""), ("0", "a"), ("3,1", "cb"), ("1,-1,0", "b"),
        ("2", ""), ("4", ""), ("GPU-c", "c"), (" GPU-b , 0", "ba"), ("GPU-", ""), ("0,0", "a"),
        ("NoDevFiles", ""), ("MIG-1", ""), ("²", ""), ("\u0661", ""), ("9" * 5000, ""),
    ],
)  # fmt: skip
def test_gpus_that_are_hidden_from_cuda_are_not_used(setting: str | None, names: str) -> None:
    a, b, c = (Gpu(f"GPU-{name}1", "A100", 40 * GIB, 0, "580") for name in "abc")
    chosen = visible([a, b, None, c], setting)
    assert "".join(gpu.uuid[4] for gpu in chosen) == names


def test_the_environment_hides_gpus(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(programs / "nvidia-smi", 'for i in 0 1; do echo "GPU-$i, A100, 40960, 3, 580"; done')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.uuid for gpu in find_gpus()] == ["GPU-1"]
