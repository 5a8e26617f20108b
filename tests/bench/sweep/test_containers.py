"""Points in containers, where `bench points` and Docker are pretended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import requests
from driver_fakes import Recorder, provenance

from bench.docker.container import Confinement
from bench.docker.gpus import Gpu
from bench.docker.images import Image
from bench.point.serve import Outcome
from bench.point.spec import PointSpec
from bench.results.store import Store, name_of
from bench.sweep import containers
from bench.sweep.containers import Containers
from bench.sweep.runner import Summary, run_points
from engines.core.config import GIB
from engines.core.errors import UserError


class Docker:
    """Stands for containers: each serves its points as `serve` says, until `removed`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.serve: Callable[[PointSpec, Callable[..., None]], int | None] = self.finish
        self.ran: list[tuple[str, list[str], Confinement, list[PointSpec]]] = []
        self.running: list[Confinement] = []
        self.removed = threading.Event()
        self.answers = True

    def ping(self) -> None:
        if not self.answers:
            raise requests.ReadTimeout("Read timed out.")

    def finish(self, spec: PointSpec, tell: Callable[..., None]) -> None:
        tell(spec, event="begin")
        tell(spec, event="advance", share=0.5)
        outcome = Outcome({"system": spec.system}, {"request_id": np.arange(3)}, {})
        self.store.write(spec, outcome, provenance=provenance(spec, self.store.source))
        tell(spec, event="end", error="")

    def run(
        self, client: Any, image: Image, confinement: Confinement, words: Sequence[str], **to: Any
    ) -> int:
        specs = [PointSpec.from_dict(json.loads(line)) for line in to["given"].splitlines()]
        self.ran.append((image.name, list(words), confinement, specs))
        taken = [gpu for other in self.running for gpu in other.gpus]
        assert not set(taken) & set(confinement.gpus), "two points share a GPU"
        self.running.append(confinement)

        def tell(spec: PointSpec, **event: Any) -> None:
            line = json.dumps({"point": name_of(spec), **event}).encode() + b"\n"
            to["out"](line[:9])  # in pieces
            to["out"](line[9:])

        try:
            for spec in specs:
                if status := self.serve(spec, tell):
                    to["errors"](b"noise\nthe reason\n")
                    return status
            return 0
        finally:
            self.running.remove(confinement)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def docker(store: Store, monkeypatch: pytest.MonkeyPatch) -> Docker:
    fake = Docker(store)
    client = SimpleNamespace(close=lambda: None, ping=fake.ping)
    monkeypatch.setattr(containers, "connect", lambda: client)
    monkeypatch.setattr(containers, "remove_ended", lambda _: None)
    monkeypatch.setattr(containers, "remove_ours", lambda _: fake.removed.set())
    monkeypatch.setattr(containers, "run_command", fake.run)
    monkeypatch.setattr(
        containers, "ensure_image", lambda _, r, note: Image(r.name, f"sha256:{r.system}", "", 1)
    )
    gpus = [Gpu(f"GPU-{i}", "A100", 40 * GIB, 9 * GIB * (i == 4), "580.65") for i in range(5)]
    monkeypatch.setattr(containers, "find_gpus", lambda: gpus)
    return fake


def start(store: Store, specs: list[PointSpec], **extra: Any) -> tuple[Summary, Recorder]:
    display = Recorder()
    return run_points(store, specs, place=Containers(jobs=2), display=display, **extra), display


def simulated(count: int, system: str = "astra") -> list[PointSpec]:
    return [PointSpec(system=system, seed=seed) for seed in range(count)]


def measured(count: int, **extra: Any) -> list[PointSpec]:
    return [PointSpec(system="astra", backend="cuda", seed=s, **extra) for s in range(count)]


def test_simulated_points_share_a_container_of_their_image(store: Store, docker: Docker) -> None:
    specs = [*simulated(3), *simulated(2, "orca-max"), *simulated(2, "orca-pow2")]
    summary, display = start(store, specs)
    assert set(summary.done) == set(specs)
    assert display.shares == [0.5] * len(specs)
    assert {image: len(found) for image, _, _, found in docker.ran} == {
        "sosp23-astra:cpu": 3, "sosp23-orca:cpu": 4}  # fmt: skip
    for _, words, confinement, _ in docker.ran:
        assert words == ["bench", "points", "-", "--artifacts", "artifacts", "--json", "--quiet",
                         "--jobs", "2"]  # fmt: skip
        assert confinement == Confinement(store.root)


def test_points_on_gpus_run_side_by_side_each_with_its_own(store: Store, docker: Docker) -> None:
    all_at_once = threading.Barrier(4, timeout=60)

    def serve(spec: PointSpec, tell: Callable[..., None]) -> None:
        if spec.tensor_parallel is None:
            all_at_once.wait()
        docker.finish(spec, tell)

    docker.serve = serve
    specs = [*measured(4), *measured(2, tensor_parallel=4), *measured(2, tensor_parallel=2)]
    summary, _ = start(store, specs)
    assert set(summary.done) == set(specs)
    for image, _, confinement, (spec,) in docker.ran:
        assert image == "sosp23-astra:latest"
        assert len(confinement.gpus) == (spec.tensor_parallel or 1)
        assert "GPU-4" not in [gpu.uuid for gpu in confinement.gpus], "it is in use by others"


def test_too_few_gpus_are_refused_before_anything_starts(store: Store, docker: Docker) -> None:
    why = r"needs 8 GPUs and 4 are free \(1 more in use by others\)"
    with pytest.raises(UserError, match=why):
        start(store, measured(1, tensor_parallel=8))
    assert docker.ran == []


def test_points_of_a_container_that_dies_are_tried_once_more(store: Store, docker: Docker) -> None:
    def die(spec: PointSpec, tell: Callable[..., None]) -> int | None:
        return 137 if spec.seed == 1 else docker.finish(spec, tell)

    docker.serve = die
    summary, display = start(store, simulated(2))
    assert summary.done == (PointSpec(system="astra", seed=0),)
    (failure,) = summary.failed
    assert failure.error == (
        "its container was killed, probably out of memory: try fewer --jobs: the reason"
    )
    assert sum("retrying once" in note for note in display.notes) == 1
    assert len(docker.ran) == 2


def test_what_a_point_fails_with_is_told_and_kept(store: Store, docker: Docker) -> None:
    def fail(spec: PointSpec, tell: Callable[..., None]) -> None:
        store.write_failure(spec, error="too large", traceback="line 1\nline 2")
        tell(spec, event="end", error="too large")

    docker.serve = fail
    summary, _ = start(store, simulated(2))
    assert [failure.error for failure in summary.failed] == ["too large"] * 2
    assert summary.exit_status == 1
    record = json.loads(store.failure_path(summary.failed[0].spec).read_bytes())
    assert record["traceback"] == ["line 1", "line 2"]


def test_a_command_that_stops_early_ends_the_run(store: Store, docker: Docker) -> None:
    def fill_the_disk(spec: PointSpec, tell: Callable[..., None]) -> int:
        tell(spec, event="end", error="no space left")
        return 1

    docker.serve = fill_the_disk
    summary, _ = start(store, [*simulated(3), *simulated(3, "ft")])
    assert [failure.error for failure in summary.failed] == ["no space left"]
    assert len(summary.unfinished) == 5


def test_a_point_that_another_command_has_brought_is_not_missed(
    store: Store, docker: Docker
) -> None:
    def skip(spec: PointSpec, tell: Callable[..., None]) -> None:
        docker.finish(spec, lambda *_, **__: None)

    docker.serve = skip
    specs = simulated(2)
    assert set(start(store, specs)[0].skipped) == set(specs)


def test_forced_points_are_made_again_once(store: Store, docker: Docker) -> None:
    specs = simulated(2)
    start(store, specs)
    assert set(start(store, specs)[0].skipped) == set(specs)
    assert set(start(store, specs, force=True)[0].done) == set(specs)
    words = docker.ran[-1][1]
    assert "--force" in words
    assert "--since" in words


def test_ctrl_c_removes_the_containers(store: Store, docker: Docker) -> None:
    def wait(spec: PointSpec, tell: Callable[..., None]) -> int:
        tell(spec, event="advance", share=0.1)
        assert docker.removed.wait(60)
        return 137

    class Impatient(Recorder):
        def advance(self, spec: Any, fraction: float) -> None:
            raise KeyboardInterrupt

    docker.serve = wait
    summary = run_points(store, measured(4), place=Containers(), display=Impatient())
    assert summary.interrupted
    assert docker.running == []


def test_a_daemon_that_no_longer_answers_ends_the_run(store: Store, docker: Docker) -> None:
    def hang(spec: PointSpec, tell: Callable[..., None]) -> int:
        time.sleep(containers._PING_EVERY_S + 0.5)
        return 137

    docker.serve, docker.answers = hang, False
    with pytest.raises(requests.ReadTimeout):  # which the command line says in one line
        start(store, simulated(1))
