"""The launcher on a real Docker daemon: images built here, points in containers, and trouble.

Skipped where no daemon answers, unless BENCH_TEST_DOCKER says that it must; BENCH_BUILD_ARGS says
how images are built where no registry can be reached.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fake_docker
import pytest
from processes import DEADLINE_S, TRIED_TWICE, started, wait_until

from bench.devices.contained import InContainer
from bench.docker.bundle import write_bundle
from bench.docker.container import ARTIFACTS, LAUNCHER, Confinement, remove_ended
from bench.docker.daemon import connect
from bench.docker.images import (
    Image,
    Recipe,
    build_image,
    checkout,
    find_image,
    parse_build_args,
    state_of,
)
from bench.docker.launch import run_json
from bench.experiments.miniature import SLOWEST
from bench.point.spec import PointSpec
from bench.results.store import State, Store
from bench.sweep.containers import Containers
from bench.sweep.runner import Summary, run_points
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [
    pytest.mark.docker, pytest.mark.slow, pytest.mark.alone, pytest.mark.usefixtures("images")
]  # fmt: skip

BENCH = Path(sys.executable).with_name("bench")
BUILD_ARGS = parse_build_args(os.environ.get("BENCH_BUILD_ARGS", "").split())
SYSTEMS = ("astra", "orca", "ft")
FIGURE = (
    *("figure", "fig12-13b-sharegpt", "--backend", "sim", "--quick", "--runner", "docker"),
    "--no-plot",
)
PROBE = Path(fake_docker.__file__).with_name("confinement_probe.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def client() -> Iterator[DockerClient]:
    try:
        client = connect()
    except UserError as error:
        if os.environ.get("BENCH_TEST_DOCKER"):
            raise
        pytest.skip(f"no containers here: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def images(client: DockerClient) -> dict[str, Image]:
    """All images, built by the command; where they are not asked for, only if they are fresh."""
    if not os.environ.get("BENCH_TEST_DOCKER"):
        for system in SYSTEMS:
            if state_of(find_image(client, recipe(system)), recipe(system)) != "fresh":
                pytest.skip("no fresh images: `make images DEVICE=cpu`, or BENCH_TEST_DOCKER=1")
    done = run("images", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    found = {system: find_image(client, recipe(system)) for system in SYSTEMS}
    return {system: image for system, image in found.items() if image is not None}


def run(*words: str, **extra: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BENCH, *words], capture_output=True, text=True, check=False, **extra)


def ours(client: DockerClient) -> list[Any]:
    label = {"label": LAUNCHER}
    return client.containers.list(all=True, filters=label, ignore_removed=True)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _nothing_left(client: DockerClient) -> Iterator[None]:
    """What a test that failed has left must not fail its second try, or the next."""
    yield
    for container in ours(client):
        container.remove(force=True)


def all_are_pruned(client: DockerClient) -> bool:
    """Whether none of ours is left once those that ended are removed: Docker tells their age in
    whole seconds, so it may not be at once.
    """
    remove_ended(client, older_than="0s")
    return not ours(client)


def complete_points(root: Path) -> dict[Path, int]:
    """The files that say that a point is complete, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in root.glob("results/*/*/point.json")}


def recipe(system: str = "astra") -> Recipe:
    return Recipe(system, "cpu", BUILD_ARGS)


def measure(store: Store, specs: list[PointSpec], *, jobs: int = 2) -> Summary:
    return run_points(store, specs, place=Containers(jobs=jobs, build_args=BUILD_ARGS))


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_image_is_small_labelled_and_ready_by_hand(
    client: DockerClient, images: dict[str, Image], system: str
) -> None:
    found = images[system]
    assert found.size_bytes < 1.5e9
    assert found.source == recipe(system).source_hash()
    labels = client.images.get(found.image_id).labels
    assert len(labels["sosp23.lock"]) == 64
    assert labels["org.opencontainers.image.revision"] != "unknown"
    assert b"Commands" in client.containers.run(found.image_id, remove=True)
    command = ["bench", "run", "--backend", "sim", "--duration", "20", "--json", "--quiet"]
    printed = client.containers.run(found.image_id, command, remove=True, network_mode="none")
    metrics = json.loads(printed)
    assert metrics["system"] == {"orca": "orca-max"}.get(system, system)
    assert metrics["finished"] > 0
    assert client.containers.run(found.image_id, ["id", "-u"], remove=True) == b"10001\n"


def test_a_figure_has_the_same_bytes_in_and_out_of_containers(
    client: DockerClient, images: dict[str, Image], tmp_path: Path
) -> None:
    for runner in ("docker", "local"):
        done = run("figure", "fig13-13b-sharegpt", "--backend", "sim", "--quick",
                   "--runner", runner, "--artifacts", str(tmp_path / runner))  # fmt: skip
        assert done.returncode == 0, done.stderr
    names = ("metrics.json", "requests.parquet", "fig13-13b-sharegpt.png")
    inside, outside = (
        {p.relative_to(tmp_path / runner): p.read_bytes()
         for p in (tmp_path / runner).rglob("*") if p.name in names}
        for runner in ("docker", "local")
    )  # fmt: skip
    assert len(inside) == 4 * 2 + 1
    assert inside == outside
    for path in (tmp_path / "docker").rglob("point.json"):
        container = json.loads(path.read_bytes())["provenance"]["container"]
        digest = client.images.get(container["image"]).id
        assert container["digest"] == digest
    assert ours(client) == []


def test_each_system_runs_a_model_on_the_cpu(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    specs = [
        PointSpec(system=system, model="opt-125m", workload="alpaca", backend="cpu", rate=4.0,
                  duration=2.0, kv_slots=4096, shrink=8)
        for system in ("astra", "orca-oracle", "ft")
    ]  # fmt: skip
    summary = measure(store, specs)
    assert summary.failed == ()
    for spec, image in zip(specs, SYSTEMS, strict=True):
        record = store.load_record(spec)
        assert record["metrics"]["finished"] == record["metrics"]["requests"]
        assert record["inputs"]["compiled_kernels"]
        assert record["provenance"]["container"]["image"] == f"sosp23-{image}:cpu"


@TRIED_TWICE
def test_a_model_runs_on_two_ranks(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    spec = PointSpec(system="astra", model="opt-125m", workload="alpaca", backend="cpu", rate=4.0,
                     duration=2.0, kv_slots=4096, shrink=8, tensor_parallel=2)  # fmt: skip
    summary = measure(store, [spec])
    assert summary.failed == ()
    metrics = store.load_record(spec)["metrics"]
    assert metrics["finished"] == metrics["requests"] > 0
    assert metrics["device"].startswith("2x cpu")


def test_kernels_are_timed_in_a_container(
    client: DockerClient, images: dict[str, Image], tmp_path: Path
) -> None:
    done = run("figure", "fig18-a", "--backend", "sim", "--runner", "docker", "--no-plot",
               "--artifacts", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("kernels.json")
    found = json.loads(path.read_bytes())
    container = found["provenance"]["container"]
    assert container["digest"] == client.images.get(container["image"]).id
    assert container["network"] == "none"
    assert found["ratios"]
    assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
    assert ours(client) == []


def test_the_speed_of_the_cpu_is_measured_in_a_container(tmp_path: Path) -> None:
    assert InContainer(tmp_path, lambda _: None, BUILD_ARGS).speed() >= SLOWEST


def test_a_bundle_of_one_image_loads_and_runs(
    client: DockerClient, images: dict[str, Image], tmp_path: Path
) -> None:
    (tmp_path / "artifacts").mkdir()
    write_bundle(
        client, tmp_path / "bundle", [images["ft"]],
        root=checkout(), artifacts=tmp_path / "artifacts",
    )  # fmt: skip
    done = run("bundle", "--check", "--out", str(tmp_path / "bundle"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"sosp23-ft:cpu .* (\d+) of \1 requests served", done.stdout)


@TRIED_TWICE
def test_a_launched_command_ends_with_its_launcher(client: DockerClient, tmp_path: Path) -> None:
    words = ("launch", "--system", "astra", "--device", "cpu", "--artifacts", str(tmp_path), "--",
             "run", "--system", "astra", "--duration", "1000000", "--quiet")  # fmt: skip
    with started([BENCH, *words]) as launcher:
        wait_until(lambda: [c for c in ours(client) if c.status == "running"], "a container")
        launcher.send_signal(signal.SIGKILL)
    wait_until(
        lambda: [c.status for c in ours(client)] == ["exited"], "the container to end by itself"
    )
    wait_until(lambda: all_are_pruned(client), "the container to be removed")


@TRIED_TWICE
def test_a_killed_launcher_leaves_nothing_and_the_next_goes_on(
    client: DockerClient, tmp_path: Path
) -> None:
    words = (*FIGURE, "--artifacts", str(tmp_path))
    with started([BENCH, *words, "--jobs", "1"]) as launcher:
        wait_until(lambda: len(complete_points(tmp_path)) >= 2, "two complete points")
        launcher.send_signal(signal.SIGKILL)
    kept = complete_points(tmp_path)
    assert launcher.returncode == -signal.SIGKILL, "it had ended before it was killed"
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= complete_points(tmp_path).items(), "complete points were run again"
    assert list(tmp_path.rglob(".*")) == []
    assert {container.status for container in ours(client)} <= {"exited"}


@TRIED_TWICE
def test_ctrl_c_ends_the_containers(client: DockerClient, tmp_path: Path) -> None:
    words = (*FIGURE, "--artifacts", str(tmp_path))
    with started([BENCH, *words]) as launcher:
        wait_until(lambda: ours(client), "a container")
        launcher.send_signal(signal.SIGINT)
        _, errors = launcher.communicate(timeout=DEADLINE_S)
        assert launcher.returncode == 130, errors
    assert ours(client) == []


def test_a_container_is_confined(
    client: DockerClient, images: dict[str, Image], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    os.chown(results, 12345, 12346) if os.getuid() == 0 else None
    user = "12345:12346" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}"
    before = sorted(tmp_path.rglob("*"))
    confinement = Confinement(results, user=user)
    found = run_json(client, images["astra"], confinement, ["python3", "-c", PROBE])
    assert ":".join(map(str, found["user"])) == user
    assert found["interfaces"] == []
    assert found["network"] == "Network is unreachable"
    for place in ("root", "image", "work"):
        assert found[place] in ("Read-only file system", "Permission denied")
    assert found["root"] == "Read-only file system" or os.getuid() == 0
    assert found["temporary"] == found["results"] == "done"
    assert int(found["capabilities"], 16) == 0
    assert found["new_privileges"] == "1"
    (written,) = set(tmp_path.rglob("*")) - set(before)
    assert written == results / "file"
    assert f"{written.stat().st_uid}:{written.stat().st_gid}" == user


def test_results_belong_to_the_caller(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    spec = PointSpec(system="astra", duration=20.0)
    assert measure(store, [spec]).exit_status == 0
    for path in store.root.rglob("*"):
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())


def test_a_launched_command_passes_output_and_status_through(
    client: DockerClient, tmp_path: Path
) -> None:
    words = ("launch", "--system", "orca-pow2", "--device", "cpu", "--artifacts", str(tmp_path))
    done = run(*words, "--", "run", "--backend", "sim", "--duration", "20",
               "--json", "--quiet", "--out", "artifacts/mine")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["system"] == "orca-pow2"
    assert (tmp_path / "mine" / "point.json").exists()
    refused = run(*words, "--", "run", "--system", "orca")
    assert refused.returncode == 2
    assert "unknown system 'orca'" in refused.stderr
    assert ours(client) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can own a directory for somebody else")
def test_results_of_somebody_else_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    (store.root / "results").mkdir(parents=True)
    for path in (store.root, store.root / "results"):
        os.chown(path, 12345, 12345)
    summary = measure(store, [PointSpec(system="astra", duration=20.0)])
    assert "cannot write" in summary.failed[0].error
    assert "Permission denied" in summary.failed[0].error


@TRIED_TWICE
@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a small disk")
def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "artifacts")
    store.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", store.root], check=True)
    try:
        specs = [PointSpec(system="astra", seed=seed, rate=20.0) for seed in range(3)]
        summary = measure(store, specs, jobs=1)
    finally:
        subprocess.run(["umount", "--lazy", store.root], check=True)  # a container may still go
    assert "no space left" in summary.failed[0].error
    assert summary.unfinished


def test_a_failing_build_step_is_shown(client: DockerClient, tmp_path: Path) -> None:
    root = fake_docker.checkout(tmp_path / "checkout")
    (root / "Dockerfile.astra").write_text(
        "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN echo all is well; echo but not this >&2; exit 7\n"
    )
    broken = Recipe("astra", "cpu", {"BASE_IMAGE": recipe().name}, root)
    notes: list[str] = []
    with pytest.raises(UserError, match=r"failed at Step 3/3 : RUN .* returned a non-zero code: 7"):
        build_image(client, broken, notes.append)
    assert "  | all is well" in notes
    assert "  | but not this" in notes


def test_a_point_stays_where_it_is(tmp_path: Path) -> None:
    """Complete points of a container run are complete to this checkout, and the other way round."""
    store = Store(tmp_path)
    spec = PointSpec(system="ft", duration=20.0)
    assert measure(store, [spec]).done == (spec,)
    assert Store(tmp_path).state(spec) is State.COMPLETE
    assert ARTIFACTS not in store.load_record(spec)["provenance"]["command"]
    assert run_points(store, [spec]).skipped == (spec,)
