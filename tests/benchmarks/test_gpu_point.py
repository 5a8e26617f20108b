"""The point that is measured and simulated: its rate, its comparison, its files."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_devices import write_profile

from bench.point.serve import Outcome
from bench.point.serve import run_point as real_run_point
from bench.point.spec import PointSpec
from engines.core.errors import UserError

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, run from the repository's root, where its package is found."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.gpu_point")


def test_rates_follow_the_speed_of_a_step(point: ModuleType, tmp_path: Path) -> None:
    plan = point.Plan.of("cuda", quick=False)
    slow = point.comparable_rate(plan, write_profile(tmp_path / "a.toml", step_overhead_s=0.1))
    fast = point.comparable_rate(plan, write_profile(tmp_path / "b.toml", step_overhead_s=0.01))
    assert fast == pytest.approx(10 * slow, rel=0.05)
    two = write_profile(tmp_path / "c.toml", step_overhead_s=0.0, weight_bandwidth=1e12)
    four = write_profile(
        tmp_path / "d.toml", step_overhead_s=0.0, weight_bandwidth=1e12, element_bytes=4
    )
    assert point.comparable_rate(plan, two) == pytest.approx(
        2 * point.comparable_rate(plan, four), rel=0.05
    )
    paper = point.comparable_rate(plan, Path("a100-40gb"))
    assert paper == point.PAPER_RATE
    spec = plan.spec("astra", 2.0)
    assert (spec.model, spec.dtype, spec.gpu_memory, spec.duration) == (
        *("opt-13b", "float16", "40GiB"),
        120.0,
    )


def test_measured_and_simulated_stand_side_by_side_with_the_error(
    point: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is played by a simulation whose steps take a quarter longer."""
    seen: list[PointSpec] = []

    def run_point(spec: PointSpec) -> Outcome:
        seen.append(spec)
        if spec.backend == "sim":
            return real_run_point(spec)
        true = write_profile(tmp_path / "true.toml", step_overhead_s=0.0125)
        device = replace(
            spec,
            backend="sim",
            device_profile=str(true),
            tensor_parallel=1,
            kv_slots=777,
            dtype=None,
        )
        return real_run_point(device)

    def measure(plan: Any, path: Path, *, quick: bool) -> None:
        del plan, quick
        write_profile(path, step_overhead_s=0.01)

    monkeypatch.setattr("bench.point.serve.run_point", run_point)
    monkeypatch.setattr(point, "measure_profile_file", measure)
    out = tmp_path / "out"
    assert point.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0
    record = json.loads((out / point.FILE).read_text())
    assert [p["system"] for p in record["points"]] == ["astra", "orca-oracle"]
    assert [spec.backend for spec in seen] == ["cpu", "sim"] * 2
    assert {spec.kv_slots for spec in seen[1::2]} == {777}
    assert {spec.shrink for spec in seen} == {16}
    for each in record["points"]:
        assert each["error_pct"]["mean_tpot_s"] == pytest.approx(-20, abs=3)
    assert {"torch", "source_sha256", "device"} <= set(record["provenance"])


def test_the_first_system_is_kept_where_the_second_cannot_be_served(
    point: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compare(spec: PointSpec, profile: Path) -> dict[str, Any]:
        if spec.system == "orca-oracle":
            raise UserError("the device ran out of memory")
        return {"system": spec.system}

    def measure(plan: Any, path: Path, *, quick: bool) -> None:
        write_profile(path, step_overhead_s=0.01)

    monkeypatch.setattr(point, "compare", compare)
    monkeypatch.setattr(point, "measure_profile_file", measure)
    assert point.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: the device ran out of memory\n"
    record = json.loads((tmp_path / "out" / point.FILE).read_text())
    assert record["points"] == [{"system": "astra"}]


def test_without_compiled_kernels_nothing_is_measured(
    point: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any, **__: Any) -> Path:
        raise UserError("a C++ compiler was not found on PATH")

    monkeypatch.setattr("engines.kernels.build.build", refuse)
    out = tmp_path / "out"
    assert point.main(["--device", "cpu", "--quick", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "error: a C++ compiler was not found on PATH\n"
    assert not out.exists()


def test_errors_are_relative_to_what_was_measured(point: ModuleType) -> None:
    assert point.error_pct(1.5, 1.0) == pytest.approx(50)
    assert point.error_pct(0.5, 1.0) == pytest.approx(-50)
    assert point.error_pct(None, 1.0) is point.error_pct(1.0, None) is None
    assert point.error_pct(1.0, 0.0) is None


def test_folders_are_named_after_the_device(point: ModuleType) -> None:
    assert point.folder_of("NVIDIA H200") == "h200"
    assert point.folder_of("NVIDIA A100-SXM4-40GB") == "a100-sxm4-40gb"
    assert point.folder_of("cpu: AMD EPYC (2 threads)") == "cpu-device"


def test_without_a_gpu_it_says_so_and_writes_nothing(
    point: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert point.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: no CUDA device here")
    assert not (tmp_path / "out").exists()
