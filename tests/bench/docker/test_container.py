from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from bench.cli import main
from bench.commands.places import settle
from bench.docker.container import ENTRY, WORK, Confinement, input_mounts
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from engines.core.config import GIB
from engines.core.errors import UserError


def test_a_container_sees_results_and_named_inputs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lengths.csv").touch()
    trace = tmp_path / "trace.csv"
    trace.touch()
    mounts = input_mounts(["data/lengths.csv", "a100-40gb", str(trace), "data/none.csv"])
    assert mounts == {
        f"{WORK}/data/lengths.csv": str(tmp_path / "data" / "lengths.csv"),
        str(trace): str(trace),
    }
    options = Confinement(tmp_path, mounts).options()
    written = [m["Target"] for m in options["mounts"] if not m["ReadOnly"]]
    assert written == [f"{WORK}/artifacts"]
    assert len(options["mounts"]) == 3
    assert options["user"] == f"{os.getuid()}:{os.getgid()}"
    assert options["network_mode"] == "none"
    assert options["read_only"]
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges"]
    assert "device_requests" not in options


def test_a_checkpoint_of_links_comes_with_what_they_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "1", tmp_path / "hub" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "abc").touch()
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (snapshot / "same.json").symlink_to("config.json")
    (snapshot / "own").touch()
    (snapshot / "alias").symlink_to("own")
    (snapshot / "gone").symlink_to("../../blobs/none")
    absolute = input_mounts([str(snapshot)])
    assert absolute == {str(snapshot): str(snapshot), str(blobs / "abc"): str(blobs / "abc")}
    relative = input_mounts(["hub/snapshots/1"])
    assert relative[f"{WORK}/hub/blobs/abc"] == str(blobs / "abc")


def test_gpus_come_with_shared_memory_and_pinned_memory(tmp_path: Path) -> None:
    gpus = tuple(Gpu(f"GPU-{i}", "A100", 40 * GIB, 0, "580") for i in range(4))
    confinement = Confinement(tmp_path, gpus=gpus)
    options = confinement.options()
    (request,) = options["device_requests"]
    assert request["DeviceIDs"] == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    assert options["shm_size"] == 16 * GIB
    assert options["ulimits"][0]["Name"] == "memlock"
    record = confinement.record(Image("mine:latest", "sha256:1", "", 5), "28.1")
    assert record["image"] == "mine:latest"
    assert (record["digest"], record["docker"]) == ("sha256:1", "28.1")
    assert record["gpus"] == ["A100"] * 4


def entry(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    """What a container starts with, here on this machine."""
    pipe = subprocess.PIPE
    words = ["sh", "-c", ENTRY.replace("/tmp/", f"{tmp_path}/"), "sh", "sh", "-c", script]
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)


def test_a_command_gets_its_input_and_gives_its_status(tmp_path: Path) -> None:
    with entry(tmp_path, "cat; exit 7") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write("one\ntwo\n\n")
        command.stdin.flush()
        assert command.wait() == 7
        assert command.stdout.readline() == "one\n"


def test_a_command_ends_with_its_launcher(tmp_path: Path) -> None:
    with entry(tmp_path, "echo begun; exec sleep 600") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write("\n")
        command.stdin.flush()
        assert command.stdout.readline() == "begun\n"
        command.stdin.close()
        assert command.stdout.read() == ""  # nobody holds it any more: the command is gone too
        assert command.wait() == 137


@pytest.mark.parametrize(
    ("gpus", "runtimes", "backend", "runner", "used", "reason"),
    [
        (1, ["nvidia"], "auto", "docker", "cuda", "Docker and GPUs are here"),
        (1, ["nvidia"], "cuda", "docker", "cuda", "Docker and GPUs are here"),
        (1, "no daemon: start it", "sim", "local", "sim", "containers are for GPUs"),
        (0, ["nvidia"], "auto", "local", "sim", "no GPU here"),
        (1, "no daemon: start it", "auto", "local", "sim", "no daemon: start it"),
        (1, ["runc"], "auto", "local", "sim", "Docker here gives no GPUs to containers"),
        (1, [], "auto", "local", "sim", "Docker does not answer: Read timed out"),
    ],
)
def test_auto_takes_containers_where_docker_and_gpus_are(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    runtimes: list[str] | str,
    backend: str,
    runner: str,
    used: str,
    reason: str,
) -> None:
    def info() -> dict[str, Any]:
        if not runtimes:
            raise requests.ReadTimeout("Read timed out")
        return {"Runtimes": dict.fromkeys(runtimes)}

    def connect(**_: Any) -> Any:
        if isinstance(runtimes, str):
            raise UserError(runtimes)
        return SimpleNamespace(info=info, close=lambda: None)

    monkeypatch.setattr("bench.docker.daemon.connect", connect)
    monkeypatch.setattr("bench.docker.gpus.find_gpus", lambda: ["gpu"] * gpus)
    settled = settle(runner="auto", backend=backend)
    assert (settled.runner, settled.backend) == (runner, used)
    assert reason in settled.reason


def test_a_runner_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.docker.gpus.find_gpus", list)
    assert settle(runner="docker", backend="auto").backend == "sim"
    assert settle(runner="docker", backend="cuda").backend == "cuda"
    assert not settle(runner="local", backend="sim").reason


@pytest.mark.parametrize(
    "line",
    ["images", "launch --system astra -- run", "bundle", "bundle --check",
     "figure fig2 --backend sim --runner docker --artifacts {tmp}/a"],
)  # fmt: skip
def test_without_a_daemon_every_command_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    result = CliRunner().invoke(main, line.format(tmp=tmp_path).split())
    assert result.exit_code == 2
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: no Docker daemon answers: start it")
    assert list(tmp_path.rglob("*.json")) == []
