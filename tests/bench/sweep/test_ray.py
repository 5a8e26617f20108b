"""Sweeps over a real Ray cluster of two nodes on this machine: losses, resuming, bad input."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import cluster_fakes as fakes
import pytest
from driver_fakes import Recorder
from processes import DEADLINE_S, TRIED_TWICE, marked, started, the_one, wait_until
from ray_clusters import AGENTS

from bench.point.spec import PointSpec
from bench.results.store import Store
from bench.sweep.ray import RayCluster
from bench.sweep.runner import run_points
from engines.core.errors import UserError

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    TRIED_TWICE,
    pytest.mark.filterwarnings("ignore"),
]

LONG = "fig12"  # a minute or more: its points cannot be done before the loss is noticed
PROMPT_S = 30.0  # three times what it should be, for busy machines
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@contextmanager
def cluster_of(nodes: int, marks: Path) -> Iterator[Any]:
    """A head and further nodes, each with one core and with a folder for what points leave."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fakes.MARKS, str(marks))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # to end soon without a head
        cluster = Cluster(initialize_head=True, head_node_args=NODE)
        session = cluster.head_node.get_session_dir_path()
        try:
            for _ in range(nodes - 1):
                cluster.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
            yield cluster
        finally:
            cluster.shutdown()
            for process in ray_processes(str(marks)):  # what killed nodes have left behind
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            shutil.rmtree(session, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One node, for tests that leave it as it is."""
    with cluster_of(1, tmp_path_factory.mktemp("marks")) as cluster:
        yield cluster


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Any]:
    """Two nodes for a single test, which kills one of them."""
    (tmp_path / "marks").mkdir()
    with cluster_of(2, tmp_path / "marks") as cluster:
        yield cluster


def ray_processes(word: str) -> dict[int, str]:
    """Ray's among the processes whose environment holds a word."""
    ray = r"raylet|gcs_server|ray::|ray/_private"
    return {i: command for i, command in marked(word).items() if re.search(ray, command)}


def specs(count: int, trace: Path) -> list[PointSpec]:
    """Points with seeds from 4 on, the last of which replays a file."""
    points = [
        PointSpec(system="astra", rate=2.0, duration=30.0, seed=seed)
        for seed in range(4, 3 + count)
    ]
    return [*points, PointSpec(system="orca-max", trace=str(trace), seed=3, warmup=0.0)]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "my-trace.csv"
    rows = "".join(f"{i / 2},20,10\n" for i in range(40))
    path.write_text("arrival_s,input_len,output_len\n" + rows)
    return path


def complete(artifacts: Path) -> list[Path]:
    """Points that are complete; those that are still being written lie one folder below."""
    return list(artifacts.glob("results/*/*/point.json"))


def held(artifacts: Path) -> list[Path]:
    """Locks of points that are under way."""
    return list(artifacts.glob("results/*/.*.lock"))


def assert_same_results(one: Store, other: Store, points: list[PointSpec]) -> None:
    for spec in points:
        for name in ("metrics.json", "requests.parquet"):
            ours, theirs = (store.directory(spec) / name for store in (one, other))
            assert ours.read_bytes() == theirs.read_bytes(), (spec, name)


def test_a_sweep_survives_a_killed_process_and_a_lost_node(
    mortal: Any, tmp_path: Path, trace: Path
) -> None:
    points = specs(6, trace)
    swept, plain = Store(tmp_path / "swept"), Store(tmp_path / "plain")
    (node,) = mortal.worker_nodes

    class Watch(Recorder):
        """Kills the second node while a point runs there."""

        def advance(self, spec: PointSpec, fraction: float) -> None:
            super().advance(spec, fraction)
            mark = tmp_path / "marks" / f"run-{spec.seed}"
            if node in mortal.worker_nodes and mark.read_text() == node.node_id:
                mortal.remove_node(node, allow_graceful=False)

    watch = Watch()
    ray.cloudpickle.register_pickle_by_value(fakes)  # nodes have no tests
    with closing(RayCluster(mortal.address, run=fakes.slowly)) as place:
        summary = run_points(swept, points, place=place, display=watch)
        again = run_points(swept, points[:1], place=place, force=True)
    assert again.done == (points[0],)
    assert not summary.failed, watch.notes
    assert set(summary.done) == set(points)
    retried = [note for note in watch.notes if "; retrying once" in note]
    assert len(retried) >= 2, watch.notes  # Ray may tell the loss of a node as that of a process
    assert any("ended without a result" in note for note in retried)
    assert watch.shares
    run_points(plain, points)
    assert_same_results(swept, plain, points)
    ours, theirs = (s.load_record(points[0])["provenance"] for s in (swept, plain))
    assert set(ours) - set(theirs) == {"ray"}
    assert set(ours["ray"]) == {"version", "node"}
    assert ours["command"] == theirs["command"]
    assert ours["git_commit"] == theirs["git_commit"]
    assert not held(swept.root)


def sweep(address: str, folder: Path, figure: str) -> AbstractContextManager[Popen[str]]:
    command = [sys.executable, "-m", "bench", "figure", figure, "--no-plot", "--full"]
    command += ["--backend", "sim", "--artifacts", str(folder), "--ray", address]
    return started(command)


def test_a_killed_command_is_taken_up_where_it_was(cluster: Any, tmp_path: Path) -> None:
    with sweep(cluster.address, tmp_path, "fig13-13b-sharegpt") as process:
        wait_until(lambda: complete(tmp_path), "a complete point")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
    kept = len(complete(tmp_path))
    with sweep(cluster.address, tmp_path, "fig13-13b-sharegpt") as again:
        out, err = again.communicate(timeout=DEADLINE_S)
    assert again.returncode == 0, err
    assert out == ""
    assert f"{kept} already complete" in err or kept == 4
    assert len(complete(tmp_path)) == 4


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("victim", ["command", "gcs_server", "raylet"])
def test_a_cluster_of_its_own_goes_with_the_command(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Whatever of it is killed: the command's process, or Ray's own."""
    monkeypatch.setenv("SWEEP_TEST_LOCAL", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # it has a token of its own
    with sweep("local", tmp_path, LONG) as process:
        wait_until(lambda: process.poll() or complete(tmp_path), "a complete point")
        assert process.poll() is None, process.communicate()
        ray = the_one(marked(str(tmp_path)), rf"/{victim} ") if victim != "command" else None
        os.kill(ray or process.pid, signal.SIGKILL)
        began = time.monotonic()
        _, err = process.communicate(timeout=DEADLINE_S)
        if victim != "command":
            assert process.returncode == 2, err
            assert "finished points are kept" in err.splitlines()[-1]
            assert time.monotonic() - began < PROMPT_S
        wait_until(
            lambda: all(map(AGENTS.search, ray_processes(str(tmp_path)).values())),
            "the cluster's processes to end",
        )
    if "the connection to the Ray cluster" in err:  # else its logs stay: it has ended the command
        assert not list(temporary.rglob("session_2*"))
    assert not list(temporary.rglob("bench-sources-*"))


def test_ctrl_c_ends_the_tasks(cluster: Any, tmp_path: Path) -> None:
    with sweep(cluster.address, tmp_path, LONG) as process:
        wait_until(lambda: held(tmp_path), "a point to start")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    assert "the same command again goes on from here" in err
    assert not held(tmp_path)


def test_points_too_large_for_the_cluster_name_what_is_there(cluster: Any, tmp_path: Path) -> None:
    large = PointSpec(system="astra", backend="cpu", tensor_parallel=64)
    with (
        closing(RayCluster(cluster.address)) as place,
        pytest.raises(
            UserError, match=r"needs a node with 64 CPUs, but the cluster has .*\(1 CPUs\)"
        ),
    ):
        run_points(Store(tmp_path), [large], place=place)


def test_the_loss_of_the_head_ends_the_run_and_keeps_what_is_complete(
    mortal: Any, tmp_path: Path
) -> None:
    with sweep(mortal.address, tmp_path, LONG) as process:
        wait_until(lambda: process.poll() or complete(tmp_path), "a complete point")
        mortal.remove_node(mortal.head_node, allow_graceful=False)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, err
    assert "finished points are kept" in err.splitlines()[-1]
    assert complete(tmp_path)
