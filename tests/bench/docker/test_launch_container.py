from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from fake_docker import frame

from bench.cli import main
from bench.commands import places
from bench.docker import worker
from bench.docker.container import GIB, WORK, Confinement, input_mounts
from bench.docker.daemon import NoDaemonError
from bench.docker.frames import Frames
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.docker.wire import Order, Ready, decode, decode_order, encode, encode_order
from bench.point.spec import PointSpec
from bench.results.provenance import source_hash
from bench.results.store import State, Store
from bench.sweep.worker import Advanced, Failed, Finished

SPEC = PointSpec(system="astra", duration=20.0, window=(0.0, 10.0))
MESSAGES = [
    Ready("abc"),
    Advanced(0.25),
    Finished(by_other=True),
    Failed("why", "where", fatal=True),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_survive_the_wire(message: Any) -> None:
    assert decode(encode(message)) == message


def test_orders_survive_the_wire_and_noise_is_none() -> None:
    order = Order(SPEC, "/artifacts", {"container": {"digest": "sha256:1"}}, force=True)
    assert decode_order(encode_order(order)) == order
    for noise in (b"", b"hello\n", b"3\n", b"[]\n", b'{"kind": "else"}\n', b"{}\n", b"\xff\n"):
        assert decode(noise) is None


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_are_put_together_from_any_pieces(size: int) -> None:
    lines = b"".join(map(encode, MESSAGES))
    stream = frame(1, lines[:10]) + frame(2, b"first\n\nlast words\n") + frame(1, lines[10:])
    frames = Frames()
    found = [m for at in range(0, len(stream), size) for m in frames.feed(stream[at : at + size])]
    assert found == MESSAGES
    assert frames.last_words == "last words"


def test_a_container_sees_results_and_named_inputs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lengths.csv").touch()
    trace = tmp_path / "trace.csv"
    trace.touch()
    specs = [
        PointSpec(system="astra", lengths="data/lengths.csv", device_profile="a100-40gb"),
        PointSpec(system="astra", trace=str(trace), lengths="data/none.csv"),
    ]
    mounts = input_mounts(specs)
    assert mounts == {
        f"{WORK}/data/lengths.csv": str(tmp_path / "data" / "lengths.csv"),
        str(trace): str(trace),
    }
    options = Confinement(tmp_path, inputs=mounts).options()
    written = [m["Target"] for m in options["mounts"] if not m["ReadOnly"]]
    assert written == ["/artifacts"]
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
    absolute = input_mounts([PointSpec(system="astra", model=str(snapshot))])
    assert absolute == {str(snapshot): str(snapshot), str(blobs / "abc"): str(blobs / "abc")}
    relative = input_mounts([PointSpec(system="astra", model="hub/snapshots/1")])
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


def test_the_program_runs_points_and_ends_with_its_input(tmp_path: Path) -> None:
    store = Store(tmp_path)
    orders = [Order(SPEC, str(tmp_path), {"container": {"image": "mine"}}, force=False)] * 2
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.system('echo noise'); "
         "import bench.docker.worker as w; w.main()"],
        input=b"", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "bench.docker.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert decode(program.stdout.readline()) == Ready(source_hash())
        for order, by_other in zip(orders, (False, True), strict=True):
            program.stdin.write(encode_order(order))
            program.stdin.flush()
            assert decode(program.stdout.readline()) == Finished(by_other=by_other)
    assert program.returncode == 0
    assert store.state(SPEC) is State.COMPLETE
    assert store.load_record(SPEC)["provenance"]["container"] == {"image": "mine"}


def test_what_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told: list[Any] = []
    order = Order(SPEC, str(tmp_path / "file"), {}, force=False)
    failed = worker._follow(encode_order(order), source="s", tell=told.append)
    assert isinstance(failed, Failed)
    assert failed.fatal
    assert "is not a directory" in failed.error
    values = json.loads(encode_order(order))
    values["spec"]["unheard_of"] = 1
    other = worker._follow(json.dumps(values).encode(), source="s", tell=told.append)
    assert "unknown settings" in other.error  # type: ignore[union-attr]


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
            raise NoDaemonError(runtimes)
        return SimpleNamespace(info=info, close=lambda: None)

    monkeypatch.setattr("bench.docker.daemon.connect", connect)
    monkeypatch.setattr("bench.docker.gpus.find_gpus", lambda: ["gpu"] * gpus)
    settled = places.settle({"ray": None, "runner": "auto", "backend": backend})
    assert (settled["runner"], settled["backend"]) == (runner, used)
    assert reason in settled["runner_reason"]


def test_a_runner_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.docker.gpus.find_gpus", list)
    assert places.settle({"ray": None, "runner": "docker", "backend": "auto"})["backend"] == "sim"
    assert places.settle({"ray": None, "runner": "docker", "backend": "cuda"})["backend"] == "cuda"
    assert "runner_reason" not in places.settle({"ray": None, "runner": "local", "backend": "sim"})


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
