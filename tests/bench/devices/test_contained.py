"""Measuring in a container: which command runs there, on which GPU, and what it returns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import passed, refused
from made_up_kernels import measured

from bench.commands.places import Where
from bench.devices.contained import InContainer
from bench.devices.measured import Measurer, measure_figure
from bench.docker import launch
from bench.docker.container import Confinement
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.experiments import registry
from bench.point.spec import Backend
from bench.results.measurements import find_measurement
from engines.core.config import GIB
from engines.core.errors import UserError

IDLE = Gpu("GPU-1", "A100", 40 * GIB, 0, "580.65")
BUSY = Gpu("GPU-2", "A100", 40 * GIB, 9 * GIB, "580.65")


class Docker:
    """Stands for containers: `printed` is what a command in one says, `status` how it ends."""

    def __init__(self) -> None:
        self.printed: Any = {}
        self.status = 0
        self.gpus = [BUSY, IDLE]
        self.ran: list[tuple[str, list[str], Confinement]] = []

    def run(
        self, client: Any, image: Image, confinement: Confinement, words: Sequence[str], **to: Any
    ) -> int:
        self.ran.append((image.name, list(words), confinement))
        to["out"](json.dumps(self.printed).encode())
        to["errors"](b"noise\nthe reason\n")
        return self.status


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    fake = Docker()
    monkeypatch.setattr(launch, "connect", lambda: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(launch, "remove_ended", lambda _: None)
    monkeypatch.setattr(launch, "find_gpus", lambda: fake.gpus)
    monkeypatch.setattr("bench.docker.gpus.find_gpus", lambda: fake.gpus)
    monkeypatch.setattr(launch, "ensure_image", lambda _, r, note: Image(r.name, "sha256:1", "", 1))
    for user in ("bench.docker.launch", "bench.commands.launch"):
        monkeypatch.setattr(f"{user}.run_command", fake.run)
    return fake


def measurer(root: Path) -> InContainer:
    return InContainer(root, lambda _: None)


def test_kernels_are_timed_on_a_free_gpu(docker: Docker, tmp_path: Path) -> None:
    docker.printed = measured(1.1, backend="cuda")
    figure = registry.find("fig18-a").figures[0]
    measure_figure(figure, measurer(tmp_path), backend="sim", quiet=True)
    ((image, words, confinement),) = docker.ran
    assert image == "sosp23-astra:latest"
    assert confinement.gpus == (IDLE,)
    assert words == ["bench", "kernels", "--json", "--quiet", "--device", "cuda", "--only",
                     "attention", "--batches", "8,32", "--contexts", "64,128,256"]  # fmt: skip
    kept = find_measurement(tmp_path, "attention", backend="cuda")
    assert kept == json.loads(json.dumps(docker.printed))


def test_a_measurement_without_a_free_gpu_is_refused(docker: Docker, tmp_path: Path) -> None:
    docker.gpus = [BUSY]
    figure = registry.find("fig19-a").figures[0]
    with pytest.raises(UserError, match="no GPU is free here"):
        measure_figure(figure, measurer(tmp_path), backend="cuda", quiet=True)
    words = ("launch", "--system", "ft", "--device", "cuda", "--artifacts", str(tmp_path / "a"))
    told = refused(*words, "--", "doctor")
    assert told.startswith("Error: no GPU is free here for a CUDA image")
    assert docker.ran == []
    assert list(tmp_path.iterdir()) == []


def test_a_launched_command_serves_the_system_of_the_launch(docker: Docker, tmp_path: Path) -> None:
    words = ("launch", "--system", "orca-pow2", "--device", "cpu", "--artifacts", str(tmp_path))
    passed(*words, "--", "run", "--rate", "2")
    ((image, command, _),) = docker.ran
    assert image == "sosp23-orca:cpu"
    assert command == ["env", "BENCH_SYSTEM=orca-pow2", "bench", "run", "--rate", "2"]


def test_the_speed_of_a_cpu_is_measured_in_its_image(docker: Docker, tmp_path: Path) -> None:
    docker.printed = {"speed": 0.5}
    assert measurer(tmp_path).speed() == 0.5
    ((image, _, confinement),) = docker.ran
    assert (image, confinement.gpus) == ("sosp23-astra:cpu", ())


def test_a_command_that_fails_is_named_with_its_reason(docker: Docker, tmp_path: Path) -> None:
    docker.status = 7
    with pytest.raises(UserError, match=r"astra:cpu: python3 .*: status 7: the reason"):
        measurer(tmp_path).speed()


def test_who_measures_follows_the_runner(tmp_path: Path) -> None:
    where = Where("local", Backend.SIM, build_args={"BASE_IMAGE": "a"})
    assert where.measurer(tmp_path) == Measurer(tmp_path)
    chosen = replace(where, runner="docker").measurer(tmp_path)
    assert isinstance(chosen, InContainer)
    assert chosen.build_args == {"BASE_IMAGE": "a"}
