from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import docker
import numpy as np
import pytest
import requests
from fake_docker import FakeContainer, FakeDaemon

from bench.docker import pool as pools
from bench.docker.daemon import LAUNCHER
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.docker.owner import is_alive, launcher_name, remove, sweep
from bench.docker.pool import Containers
from bench.docker.wire import Message, Order, Ready
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.progress import Display
from bench.results.store import Store
from bench.sweep.runner import Summary, run_points
from bench.sweep.worker import Advanced, Failed, Task, attempt
from engines.core.errors import UserError

GIB = 1 << 30


class Recorder(Display):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.shares: list[float] = []

    def advance(self, spec: PointSpec, fraction: float) -> None:
        self.shares.append(fraction)

    def note(self, line: str) -> None:
        self.notes.append(line)


def serve(spec: PointSpec, *, on_progress: Any = None) -> Outcome:
    return Outcome({"system": spec.system, "wall_s": 0.0}, {"request_id": np.arange(3)}, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def program(store: Store) -> Callable[[FakeContainer, Order], Iterable[Message]]:
    """Write a point into the store as the program in a container would."""

    def follow(container: FakeContainer, order: Order) -> Iterable[Message]:
        yield Advanced(0.5)
        shared = {"source_sha256": store.source, **order.provenance}
        yield attempt(Task(order.spec, store.root, serve, shared, order.force), container.say)

    return follow


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every image is there; returns the names that were asked for."""
    asked: list[str] = []

    def ensure(self: object, recipe: Any, note: object) -> Image:
        asked.append(recipe.name)
        return Image(recipe.name, f"sha256:{recipe.system}", "", 1)

    monkeypatch.setattr(pools.Images, "ensure", ensure)
    return asked


def start(
    daemon: FakeDaemon, store: Store, specs: list[PointSpec], *, gpus: int = 0, **extra: Any
) -> tuple[Summary, Recorder]:
    daemon.hello = [Ready(store.source)]
    found = [Gpu(f"GPU-{i}", "A100", 40 * GIB, 0, "580.65") for i in range(gpus)]
    place = Containers(connect=lambda: daemon, find_gpus=lambda: found, **extra)  # type: ignore[arg-type, return-value]
    display = Recorder()
    return run_points(store, specs, place=place, display=display), display


def simulated(count: int, system: str = "astra") -> list[PointSpec]:
    return [PointSpec(system=system, seed=seed) for seed in range(count)]


def measured(count: int, **extra: Any) -> list[PointSpec]:
    return [PointSpec(system="astra", backend="cuda", seed=s, **extra) for s in range(count)]


def test_simulated_points_share_containers_of_their_systems_images(
    store: Store, program: Any, images: list[str]
) -> None:
    daemon = FakeDaemon(program)
    specs = [*simulated(4), *simulated(3, "orca-max"), *simulated(2, "orca-pow2")]
    summary, display = start(daemon, store, specs, jobs=2)
    assert set(summary.done) == set(specs)
    assert sorted(images) == ["sosp23-astra:cpu", "sosp23-orca:cpu"]
    assert len(daemon.created) < len(specs)
    assert display.shares == [0.5] * len(specs)
    for container in daemon.created:
        for order in container.orders:
            system = "orca" if order.spec.system.startswith("orca") else "astra"
            assert container.image == f"sha256:{system}"
    assert daemon.alive == []


def test_provenance_names_the_image_and_the_limits(
    store: Store, program: Any, images: list[str]
) -> None:
    (spec,) = measured(1)
    start(FakeDaemon(program), store, [spec], gpus=1)
    container = store.load_record(spec)["provenance"]["container"]
    assert container["digest"] == "sha256:astra"
    assert container["image"] == "sosp23-astra:latest"
    assert container["docker"] == "0.0-fake"
    assert container["network"] == "none"
    assert container["read_only"]
    assert container["gpus"] == ["A100"]
    assert container["user"] == f"{os.getuid()}:{os.getgid()}"


def test_points_on_gpus_run_side_by_side_each_with_its_own(
    store: Store, program: Any, images: list[str]
) -> None:
    daemon = FakeDaemon(program)
    together: list[set[str]] = []

    def watch(container: FakeContainer, order: Order) -> Iterable[Message]:
        together.append({id for c in daemon.alive for id in gpu_ids(c)})
        taken = [id for c in daemon.alive for id in gpu_ids(c)]
        assert len(taken) == len(set(taken)), "two points share a GPU"
        return program(container, order)

    daemon.program = watch
    specs = [*measured(3), *measured(2, tensor_parallel=4), *measured(2, tensor_parallel=2)]
    summary, _ = start(daemon, store, specs, gpus=4)
    assert set(summary.done) == set(specs)
    assert len(daemon.created) == len(specs), "a measured point had a used container"
    assert max(len(ids) for ids in together) == 4
    for container in daemon.created:
        (order,) = container.orders
        assert len(gpu_ids(container)) == (order.spec.tensor_parallel or 1)
        assert container.options["shm_size"] >= 4 * GIB


def gpu_ids(container: FakeContainer) -> list[str]:
    return [id for request in container.options["device_requests"] for id in request["DeviceIDs"]]


def test_too_few_gpus_are_refused_before_anything_starts(
    store: Store, program: Any, images: list[str]
) -> None:
    daemon = FakeDaemon(program)
    with pytest.raises(Exception, match="needs 2 GPUs and 1 are free"):
        start(daemon, store, measured(1, tensor_parallel=2), gpus=1)
    with pytest.raises(Exception, match="needs 1 GPUs and 0 are free"):
        start(daemon, store, measured(1))
    assert images == []
    assert daemon.created == []


def test_a_container_that_dies_is_tried_once_more_and_then_named(
    store: Store, program: Any, images: list[str]
) -> None:
    def die(container: FakeContainer, order: Order) -> Iterable[Message]:
        if order.spec.seed:
            return program(container, order)
        container.complain("first line\nTerminated by the kernel\n")
        container.die(137)
        return []

    daemon = FakeDaemon(die)
    specs = simulated(3)
    summary, display = start(daemon, store, specs, jobs=1)
    assert set(summary.done) == set(specs[1:])
    (failure,) = summary.failed
    assert "killed, likely for want of memory" in failure.error
    assert "Terminated by the kernel" in failure.error
    assert sum("trying once more" in note for note in display.notes) == 1
    assert daemon.alive == []


def test_an_image_of_other_sources_ends_the_run(
    store: Store, program: Any, images: list[str]
) -> None:
    daemon = FakeDaemon(program)
    daemon.hello = [Ready("another")]
    place = Containers(jobs=1, connect=lambda: daemon, find_gpus=list)  # type: ignore[arg-type, return-value]
    summary = run_points(store, simulated(3), place=place)
    assert "holds other sources" in summary.failed[0].error
    assert len(summary.unfinished) == 2
    assert daemon.created[0].orders == []
    assert daemon.alive == []


def test_ctrl_c_leaves_no_container(store: Store, program: Any, images: list[str]) -> None:
    daemon = FakeDaemon(program)

    class Impatient(Recorder):
        def advance(self, spec: PointSpec, fraction: float) -> None:
            raise KeyboardInterrupt

    daemon.hello = [Ready(store.source)]
    place = Containers(jobs=2, connect=lambda: daemon, find_gpus=list)  # type: ignore[arg-type, return-value]
    summary = run_points(store, simulated(4), place=place, display=Impatient())
    assert summary.interrupted
    assert daemon.created
    assert daemon.alive == []


def test_ctrl_c_while_a_container_is_made_leaves_none(
    store: Store, program: Any, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(container: FakeContainer) -> None:
        container.theirs.close()
        raise KeyboardInterrupt

    daemon = FakeDaemon(program)
    monkeypatch.setattr(FakeContainer, "start", interrupt)
    summary, _ = start(daemon, store, simulated(2))
    assert summary.interrupted
    assert daemon.created
    assert daemon.alive == []


@pytest.mark.parametrize(
    "error",
    [
        'could not select device driver "" with capabilities: [[gpu]]',
        "failed to discover GPU vendor from CDI: no known GPU vendor found",
    ],
)
def test_a_missing_gpu_driver_is_explained(
    store: Store, program: Any, images: list[str], error: str
) -> None:
    daemon = FakeDaemon(program)
    daemon.start_error = error
    with pytest.raises(Exception, match="install the NVIDIA container toolkit"):
        start(daemon, store, measured(1), gpus=1)
    assert daemon.alive == []


def test_containers_of_dead_launchers_are_removed_and_no_others(
    store: Store, program: Any, images: list[str]
) -> None:
    daemon = FakeDaemon(program)
    dead = subprocess.Popen(["true"])
    name_of_dead = launcher_name(dead.pid)
    dead.wait()
    host, _, rest = launcher_name().partition("/")
    orphan, reused, ours, foreign, elsewhere = (
        daemon.containers.create("image", [], labels=labels)
        for labels in (
            {LAUNCHER: name_of_dead},
            {LAUNCHER: f"{host}/{os.getpid()}/1"},  # our number, but another process had it
            {LAUNCHER: launcher_name()},
            {"other": "label"},
            {LAUNCHER: "another-host/1/1"},
        )
    )
    assert rest
    sweep(daemon, (display := Recorder()).note)  # type: ignore[arg-type]
    assert daemon.alive == [ours, foreign, elsewhere]
    assert orphan.ended.is_set()
    assert reused.ended.is_set()
    assert any("removed 2 containers" in note for note in display.notes)
    start(daemon, store, simulated(1))  # a run leaves none of its own process either
    assert daemon.alive == [foreign, elsewhere]


def test_a_launcher_that_nobody_has_buried_is_dead() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        name = launcher_name(process.pid)
        assert is_alive(name)
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(name)


def conflict(status: int = 409) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("no", response=response, explanation="removal is in progress")


def test_a_removal_under_way_is_waited_for_and_one_that_failed_is_done_again(
    store: Store, program: Any
) -> None:
    daemon = FakeDaemon(program)
    container = daemon.containers.create("image", [])
    container.refusals = [conflict(), conflict()]
    remove(container)
    assert daemon.alive == []
    container.refusals = [conflict(500)]
    with pytest.raises(docker.errors.APIError):
        remove(container)


def test_a_daemon_that_removes_nothing_ends_no_run(
    store: Store, program: Any, images: list[str]
) -> None:
    def follow(container: FakeContainer, order: Order) -> Iterable[Message]:
        container.refusals = [conflict(500), requests.ConnectionError("refused")]
        return program(container, order)

    specs = simulated(1)
    summary, _ = start(FakeDaemon(follow), store, specs, jobs=1)
    assert summary.done == tuple(specs)


def test_a_daemon_that_goes_away_is_told(
    store: Store, program: Any, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(container: FakeContainer) -> None:
        container.theirs.close()
        raise requests.ConnectionError(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))

    monkeypatch.setattr(FakeContainer, "start", refuse)
    with pytest.raises(UserError, match="does not start: no Docker daemon answers: start it"):
        start(FakeDaemon(program), store, simulated(1), jobs=1)


def test_what_a_point_fails_with_is_told(store: Store, images: list[str]) -> None:
    daemon = FakeDaemon(lambda *_: [Failed("the model does not fit")])
    summary, _ = start(daemon, store, simulated(2), jobs=1)
    assert [failure.error for failure in summary.failed] == ["the model does not fit"] * 2
    assert summary.exit_status == 1
