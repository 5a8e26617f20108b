"""What nodes are sent and asked for: sources, input files, compiled kernels, cores and GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.results.provenance import source_hash
from bench.sweep import ray_task
from bench.sweep.place import Ended
from bench.sweep.ray import Node, require_room, resources_of
from bench.sweep.ray_task import (
    Order,
    Served,
    read_inputs,
    require_kernels,
    serve,
    stage_sources,
    with_inputs,
)
from engines.core.errors import UserError

SPEC = PointSpec(system="astra", rate=2.0, duration=10.0)
PROFILE = Path(ray_task.engines.__file__ or "").parent / "sim" / "profiles" / "h200.toml"


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged")
    stage_sources(folder)
    return folder


def test_staged_sources_are_these(staged: Path) -> None:
    code = "from bench.results.provenance import source_hash; print(source_hash())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=staged, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == source_hash()
    assert not list(staged.rglob("__pycache__/*.py"))


def test_a_node_needs_few_packages(staged: Path) -> None:
    """What docs/cluster.md tells to install suffices to serve a simulated point."""
    code = (
        "import sys\n"
        "for name in ('click', 'matplotlib', 'pandas', 'pyarrow', 'rich', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "import bench.sweep.ray_task\n"
        "from bench.point.serve import PointSpec, run_point\n"
        "print(run_point(PointSpec(system='astra', duration=9.0, warmup=0.0)).metrics['finished'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=staged, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_only_kernels_of_the_present_sources_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = tmp_path / "lib"
    libraries.mkdir()
    (libraries / "_cpu-old.so").touch()
    current = libraries / "_cpu-new.so"
    current.touch()
    monkeypatch.setattr(
        ray_task, "library_path", lambda device, csrc: libraries / f"_{device}-new.so"
    )
    stage_sources(tmp_path / "out")
    kernels = tmp_path / "out" / "engines" / "kernels"
    assert [path.name for path in kernels.rglob("*.so")] == [current.name]


def test_cuda_points_need_kernels_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_task, "compiled", lambda device: [])
    require_kernels([SPEC, PointSpec(system="astra", backend="cpu")])
    with pytest.raises(UserError, match=r"engines.kernels.build --device cuda"):
        require_kernels([SPEC, PointSpec(system="astra", backend="cuda")])


def test_files_arrive_with_name_and_content(tmp_path: Path) -> None:
    trace = tmp_path / "a trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n0,5,5\n")
    spec = PointSpec(system="astra", trace=str(trace), device_profile=str(PROFILE), warmup=0.0)
    files = read_inputs(spec)
    assert set(files) == {"trace", "device_profile"}
    there = with_inputs(spec, files, tmp_path / "node")
    assert there.trace is not None
    assert Path(there.trace).name == trace.name
    assert Path(there.trace).read_bytes() == trace.read_bytes()
    assert there.device_profile != spec.device_profile
    assert read_inputs(PointSpec(system="astra", device_profile="h200")) == {}


def order(spec: PointSpec, **values: Any) -> Order:
    settings: dict[str, Any] = {"run": run_point, "source_sha256": source_hash()}
    return Order(spec, read_inputs(spec), **(settings | values))


def test_a_node_serves_a_point_as_this_machine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "mine.toml"
    profile.write_bytes(PROFILE.read_bytes())
    spec = PointSpec(system="astra", rate=2.0, duration=10.0, device_profile=str(profile))
    *_, last = serve(order(spec))
    assert isinstance(last, Served)
    here = run_point(spec)
    assert {
        k: v for k, v in last.outcome.metrics.items() if "wall" not in k and "host" not in k
    } == {k: v for k, v in here.metrics.items() if "wall" not in k and "host" not in k}
    assert last.outcome.inputs == here.inputs
    assert set(last.machine) >= {"python", "packages", "cpu", "cores", "ray"}
    assert set(last.machine).isdisjoint({"git_commit", "git_dirty"})


def test_other_sources_are_refused() -> None:
    (message,) = serve(order(SPEC, source_sha256="0" * 64))
    assert isinstance(message, Ended)
    assert "the node runs other sources" in message.error


def test_what_a_point_cannot_do_is_told_in_one_line() -> None:
    (message,) = serve(order(PointSpec(system="astra", model="opt-175b", tensor_parallel=1)))
    assert isinstance(message, Ended)
    assert "does not fit" in message.error
    assert not message.traceback


CPU, GPU, SMALL = Node("10.0.0.1", 4), Node("10.0.0.2", 16, gpus=8), Node("10.0.0.3", 8, gpus=2)


@pytest.mark.parametrize(
    ("backend", "degree", "asked"),
    [
        ("sim", 8, {"num_cpus": 1}),  # its devices are simulated
        ("cuda", None, {"num_gpus": 1, "num_cpus": 2}),
        ("cuda", 4, {"num_gpus": 4, "num_cpus": 8}),
        ("cpu", None, {"num_cpus": 16}),
        ("cpu", 2, {"num_cpus": 16}),
        ("cuda", 16, None),
        ("cpu", 17, None),
    ],
)
def test_what_a_point_asks_of_a_node(
    backend: str, degree: int | None, asked: dict[str, int] | None
) -> None:
    spec = PointSpec(system="astra", backend=backend, tensor_parallel=degree)
    nodes = [CPU, GPU, SMALL]
    assert resources_of(spec, nodes) == asked
    assert resources_of(spec, []) is None
    if asked is not None:
        assert [node for node in nodes if node.fits(asked)][-1] in (GPU, SMALL)
        require_room(nodes, [spec])
        return
    there = r"10.0.0.1 \(4 CPUs\), 10.0.0.2 \(16 CPUs, 8 GPUs\), 10.0.0.3 \(8 CPUs, 2 GPUs\)"
    with pytest.raises(
        UserError, match=rf"needs a node with 1\d .PUs, but the cluster has {there}"
    ):
        require_room(nodes, [spec])
