"""Commands and measurements in containers, on a daemon that is none; and the leash, for real."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_docker import FakeContainer, FakeDaemon

from bench.cli import main
from bench.commands import places
from bench.devices.measured import Here, measure_figure
from bench.docker import images as images_module
from bench.docker.command import ask_command, run_command
from bench.docker.container import Confinement
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.docker.measure import ContainedMeasurer
from bench.experiments import registry
from bench.results.measurements import find_measurement
from engines.core.errors import UserError

GIB = 1 << 30
IDLE = Gpu("GPU-1", "A100", 40 * GIB, 0, "580.65")
BUSY = Gpu("GPU-2", "A100", 40 * GIB, 9 * GIB, "580.65")
IMAGE = Image("sosp23-astra:cpu", "sha256:astra", "", 1)
LEASH = [sys.executable, "-m", "bench.docker.leash"]


@pytest.fixture(autouse=True)
def _images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is there."""

    def ensure(self: object, recipe: Any, note: object) -> Image:
        return Image(recipe.name, f"sha256:{recipe.system}", "", 1)

    monkeypatch.setattr(images_module.Images, "ensure", ensure)


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon(lambda *_: [])


def measurer(root: Path, daemon: FakeDaemon, *gpus: Gpu) -> ContainedMeasurer:
    return ContainedMeasurer(
        root,
        lambda _: None,
        connect=lambda: daemon,  # type: ignore[arg-type, return-value]
        find_gpus=lambda: list(gpus),
    )


def timed(container: FakeContainer) -> int:
    container.complain("timing\n")
    found = {"format": 1, "backend": "cuda", "provenance": {"git_commit": None, "cores": 2}}
    container.print(json.dumps(found).encode())
    return 0


def test_a_command_passes_its_streams_and_status_through(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    def command(container: FakeContainer) -> int:
        container.print(b"one ")
        container.complain("trouble\n")
        container.print(b"two")
        return 7

    daemon.command = command
    out, errors = io.BytesIO(), io.BytesIO()
    words = ("bench", "run")
    status = run_command(
        daemon, IMAGE, words, Confinement(tmp_path), out=out, errors=errors  # type: ignore[arg-type]
    )  # fmt: skip
    assert (status, out.getvalue(), errors.getvalue()) == (7, b"one two", b"trouble\n")
    assert daemon.created[0].words[-2:] == ["bench", "run"]
    assert daemon.alive == []
    with pytest.raises(UserError, match="sosp23-astra:cpu: bench run: status 7: trouble"):
        ask_command(daemon, IMAGE, words, Confinement(tmp_path))  # type: ignore[arg-type]


def test_ctrl_c_while_a_commands_container_is_made_leaves_none(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    make = daemon.containers.create

    def interrupt(*arguments: Any, **options: Any) -> None:
        make(*arguments, **options)
        raise KeyboardInterrupt

    daemon.containers.create = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_command(daemon, IMAGE, ("bench",), Confinement(tmp_path))  # type: ignore[arg-type]
    assert daemon.created
    assert daemon.alive == []


def test_kernels_are_timed_on_one_free_gpu_and_their_provenance_names_the_container(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    daemon.command = timed
    figure = registry.find("fig18-a").figures[0]
    measure_figure(figure, measurer(tmp_path / "a", daemon, BUSY, IDLE), backend="sim", quiet=True)
    (container,) = daemon.created
    (request,) = container.options["device_requests"]
    assert request["DeviceIDs"] == ["GPU-1"]
    assert container.options["network_mode"] == "none"
    assert container.options["mounts"][0]["Source"] == str(tmp_path / "a")
    words = container.words[container.words.index("bench") :]
    assert words == ["bench", "kernels", "--json", "--device", "cuda", "--only", "attention",
                     "--batches", "8,32", "--contexts", "64,128,256", "--quiet"]  # fmt: skip
    found = find_measurement(tmp_path / "a", "attention", backend="cuda")
    assert found is not None
    assert found["provenance"]["cores"] == 2
    assert found["provenance"]["git_commit"] is not None
    assert found["provenance"]["container"]["digest"] == "sha256:astra"
    assert found["provenance"]["container"]["image"] == "sosp23-astra:latest"


def test_a_measurement_without_a_free_gpu_is_refused(tmp_path: Path, daemon: FakeDaemon) -> None:
    figure = registry.find("fig19-a").figures[0]
    for gpus in ((), (BUSY,)):
        with pytest.raises(UserError, match="none is free"):
            measure_figure(figure, measurer(tmp_path, daemon, *gpus), backend="cuda", quiet=True)
    assert daemon.created == []
    assert list(tmp_path.iterdir()) == []


def test_the_speed_of_a_cpu_is_measured_in_its_image(tmp_path: Path, daemon: FakeDaemon) -> None:
    def command(container: FakeContainer) -> int:
        container.print(b'{"speed": 0.5}\n')
        return 0

    daemon.command = command
    assert measurer(tmp_path, daemon, IDLE).speed() == 0.5
    assert "device_requests" not in daemon.created[0].options


def test_who_measures_follows_the_runner(tmp_path: Path) -> None:
    given = {"runner": "local", "build_arg": ("BASE_IMAGE=a",)}
    assert places.choose_measurer(given, tmp_path) == Here(tmp_path)
    chosen = places.choose_measurer({**given, "runner": "docker"}, tmp_path)
    assert isinstance(chosen, ContainedMeasurer)
    assert chosen.build_args == {"BASE_IMAGE": "a"}


def test_a_cuda_image_is_not_launched_without_a_gpu(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.docker.daemon.connect", lambda: daemon)
    monkeypatch.setattr("bench.docker.gpus.find_gpus", lambda: [BUSY])
    words = ("launch", "--system", "ft", "--device", "cuda", "--artifacts", str(tmp_path / "a"))
    result = CliRunner().invoke(main, [*words, "--", "doctor"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: no GPU is free here for a CUDA image")
    assert not (tmp_path / "a").exists()


def test_the_leash_returns_the_commands_status() -> None:
    for script, status in (("exit 7", 7), ("kill -9 $$", 128 + signal.SIGKILL)):
        with subprocess.Popen([*LEASH, "sh", "-c", script], stdin=subprocess.PIPE) as leash:
            leash.wait()
        assert leash.returncode == status


def test_the_leash_ends_the_command_with_its_input() -> None:
    words = [*LEASH, "sh", "-c", "echo begun; exec sleep 600"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leash:
        assert leash.stdin is not None
        assert leash.stdout is not None
        assert leash.stdout.readline() == b"begun\n"
        leash.stdin.close()
        assert leash.stdout.read() == b""  # nobody holds it any more: the command is gone too
        leash.wait()
    assert leash.returncode == 137
