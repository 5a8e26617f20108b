from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from driver_fakes import outcome
from model_configs import CONFIGS

import bench.commands.run as run_command
import engines.sim
from bench import machine
from bench.cli import main
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from bench.results import provenance

SPECS = [
    PointSpec(system="orca-max"),
    PointSpec(system="astra", rate=0.1 + 0.2, window=(1 / 3, 900.0), share_prefix=True, warmup=0.0),
    PointSpec(system="ft", model="opt-66b", tensor_parallel=4, kv_slots=9700, max_batch_size=3,
              swap_space_gib=0.5, preemption="swap", sampling="beam4", max_num_seqs=7,
              device_profile="a100-80gb"),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_the_command_makes_the_same_point_again(
    spec: PointSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def serve(spec: PointSpec, **_: Any) -> Any:
        seen.append(spec)
        return outcome(spec)

    monkeypatch.setattr(run_command, "serve", serve)
    spec = replace(spec, backend="sim")
    words = shlex.split(provenance.command_of(spec))
    assert words[:2] == ["bench", "run"]
    result = CliRunner().invoke(main, [*words[1:], "--json"])
    assert result.exit_code == 0, result.stderr
    assert seen == [spec]


def test_the_source_hash_follows_what_decides_results(tmp_path: Path) -> None:
    decisive = (
        "engines/core.py",
        "bench/point/serve.py",
        "bench/point/spec.py",
        "bench/workloads/lengths.csv",
    )
    others = ("bench/report/build.py", "engines/__pycache__/core.pyc", "engines/.core.py.swp")
    for name in (*decisive, *others):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    first = provenance.source_hash(tmp_path)
    for name in others:
        (tmp_path / name).write_text("changed")
    assert provenance.source_hash(tmp_path) == first
    seen = {first}
    for name in decisive:
        (tmp_path / name).write_text("changed")
        seen.add(provenance.source_hash(tmp_path))
    (tmp_path / "engines" / "core.py").rename(tmp_path / "engines" / "heart.py")
    seen.add(provenance.source_hash(tmp_path))
    assert len(seen) == 6


def test_input_files_are_hashed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_bytes(b"1,2,3")
    spec = PointSpec(system="astra", trace=str(trace), device_profile="a100-40gb")
    assert provenance.hash_inputs(spec) == {"trace": hashlib.sha256(b"1,2,3").hexdigest()}


@pytest.mark.parametrize("field", ["device_profile", "model"])
def test_a_file_is_read_once_and_recorded_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Also where it changes while its point runs."""
    shipped = Path(engines.sim.__file__).parent / "profiles" / "a100-40gb.toml"
    content = {"device_profile": shipped.read_bytes(), "model": json.dumps(CONFIGS["llama"])}[field]
    given = tmp_path / {"device_profile": "mine.toml", "model": "config.json"}[field]
    given.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = hashlib.sha256(given.read_bytes()).hexdigest()
    spec = PointSpec(
        system="astra", duration=20.0, warmup=0.0, swap_space_gib=0.1, kv_slots=20_000,
        **{field: str(given)},
    )  # fmt: skip
    original = Path.open

    def read_then_change(self: Path, *options: Any, **named: Any) -> Any:
        opened = original(self, *options, **named)
        if self == given:  # what is open goes on to hold what it held
            given.unlink()
            given.parent.joinpath("next").touch()
            os.rename(given.parent / "next", given)
        return opened

    monkeypatch.setattr(Path, "open", read_then_change)
    found = run_point(spec)
    monkeypatch.undo()
    assert given.read_bytes() == b"", "it was never read"
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    record = provenance.provenance_of(
        spec, shared={}, inputs=found.inputs, started=moment, ended=moment
    )
    assert record["input_files"] == {field: before}
    assert "unsupported" not in str(found.inputs.get("model"))


def test_what_a_point_records() -> None:
    shared = provenance.environment(source="s", gpu=True)
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    record = provenance.provenance_of(
        SPECS[0],
        shared=shared,
        inputs={"device_profile": {"calibrated": {"step_overhead_s": "Fig. 13"}}},
        started=moment,
        ended=moment,
    )
    assert record["source_sha256"] == "s"
    assert record["calibrated"] == {"step_overhead_s": "Fig. 13"}
    assert record["started"] == "2026-01-02T03:04:05.000+00:00"
    assert record["packages"]["numpy"]
    assert record["os"] == machine.operating_system()
    assert record["cores"] >= 1
    assert isinstance(record["gpus"], list)
    assert platform.node() not in str(record).split()


@pytest.mark.skipif(shutil.which("git") is None, reason="git needed")
def test_results_are_no_changes_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    for name in ("bench/a.py", "artifacts/reference/table.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "all")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "artifacts/reference/table.csv").write_text("2")
    (tmp_path / "artifacts/new.csv").write_text("3")
    assert machine.git_state()["git_dirty"] is False
    (tmp_path / "new.py").write_text("4")
    assert machine.git_state()["git_dirty"] is True


def test_no_git_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert machine.git_state() == {"git_commit": None, "git_dirty": None}
    assert machine.gpu_names() == []
    assert machine.package_version("no-such-package-here") is None
