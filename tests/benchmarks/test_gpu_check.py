"""The check of a GPU, on the CPU and in small: its parts, its record, its exit status."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_devices import write_profile

pytest.importorskip("torch")

import torch

from bench.point.serve import Outcome
from bench.point.serve import run_point as real_run_point
from bench.point.spec import PointSpec
from benchmarks import gpu_check as check
from benchmarks import gpu_parts as parts
from benchmarks.gpu_parts import Part, Run
from engines.core.errors import UserError

ROOT = Path(parts.ROOT)


def run(out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status = check.main(["--device", "cpu", "--quick", "--out", str(out), *words])
    return status, json.loads((out / check.FILE).read_text())


def quick(out: Path, *, deadline: float = math.inf) -> Run:
    return Run("cpu", quick=True, out=out, deadline=deadline)


def test_everything_that_is_timed_runs_and_is_recorded(small_device: None, tmp_path: Path) -> None:
    names = [part.name for part in parts.PARTS if part.name != "tests"]
    status, record = run(tmp_path, "--only", *names)
    found = record["parts"]
    assert {name: part.get("error") for name, part in found.items() if not part["passed"]} == {}
    assert (status, record["passed"]) == (0, True)
    assert {row["kind"] for row in found["kernel-times"]["attention"]} == {"paged", "contiguous"}
    assert [row["block_size"] for row in found["kernel-times"]["recovery"]] == [16, 64]
    assert [row["num_seqs"] for row in found["decode-times"]["rows"]] == [1, 4]
    assert all(0 < row["host_us"] < 1e6 * row["step_s"] for row in found["decode-times"]["rows"])
    text = (tmp_path / parts.PROFILE).read_text()
    assert text.splitlines() == found["profile"]["toml"]
    assert any(line.startswith("kv_bandwidth = ") for line in found["profile"]["toml"])
    assert found["point-astra"]["predicted"]["backend"] == "sim"
    assert set(found["point-orca-oracle"]["error_pct"]) == set(parts.COMPARED)
    known = record["provenance"]
    assert known["torch"] == torch.__version__
    assert len(known["source_sha256"]) == 64
    assert {"git_commit", "device", "started", "ended"} <= set(known)


def explode(run: Run) -> dict[str, Any]:
    raise RuntimeError("on purpose")


def refuse(run: Run) -> dict[str, Any]:
    raise UserError("no memory")


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (
        Part("explodes", explode),
        Part("refuses", refuse),
        Part("wrong", lambda run: {"passed": False}),
        Part("right", lambda run: {"answer": 42}),
    )
    monkeypatch.setattr(check, "PARTS", made)
    status, record = run(tmp_path)
    assert (status, record["passed"]) == (1, False)
    found = record["parts"]
    assert found["explodes"]["error"] == "RuntimeError: on purpose"
    assert any("explode" in line for line in found["explodes"]["traceback"])
    assert found["refuses"]["traceback"] == []
    assert [found[name]["passed"] for name in ("refuses", "wrong", "right")] == [False, False, True]
    assert found["right"]["answer"] == 42


def test_a_device_that_is_lost_is_recorded_after_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kernel's illegal access every call fails, those that clear up among them."""
    seen: list[dict[str, Any]] = []

    def lose(device: str) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def look(run: Run) -> dict[str, Any]:
        seen.append(json.loads((tmp_path / check.FILE).read_text()))
        return {}

    monkeypatch.setattr(check, "PARTS", [Part("a", lambda run: {}), Part("b", look)])
    monkeypatch.setattr(check, "release", lose)
    status, record = run(tmp_path)
    lost = "the device is lost: CUDA error: an illegal memory access was encountered"
    assert (status, [part["error"] for part in record["parts"].values()]) == (1, [lost, lost])
    assert (list(seen[0]["parts"]), seen[0]["passed"]) == (["a"], False)


@pytest.mark.parametrize(
    ("total_s", "in_time"), [(-1.0, set()), (100.0, {"short"}), (1000.0, {"short", "long"})]
)
def test_no_part_starts_once_the_time_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_s: float, in_time: set[str]
) -> None:
    made = (Part("short", lambda run: {}), Part("long", lambda run: {}, needs_s=200))
    monkeypatch.setattr(check, "PARTS", made)
    monkeypatch.setattr(check, "TOTAL_S", total_s)
    status, record = run(tmp_path)
    found = record["parts"]
    assert {name for name in found if found[name]["passed"]} == in_time
    late = {found[name]["error"] for name in found if name not in in_time}
    assert late <= {"not started: the time was used up"}
    assert status == (0 if len(in_time) == len(made) else 1)


TESTS = """
import pytest
@pytest.mark.gpu
def test_right(): pass
@pytest.mark.gpu
def test_wrong(): assert {wrong}
@pytest.mark.gpu
def test_absent(): {absent}
def test_of_the_cpu(): raise AssertionError("is left out")
"""


@pytest.mark.parametrize(
    ("wrong", "absent", "left_s", "expected"),
    [
        ("True", "pass", math.inf, (True, 3, 0, 0)),
        ("1 == 2", "pass", math.inf, (False, 2, 1, 0)),
        ("True", "pytest.skip('no CUDA device')", math.inf, (False, 2, 0, 1)),
        ("True", "pass", -math.inf, (False, 0, 0, 3)),
    ],
)
def test_all_gpu_tests_must_run_and_pass(
    tmp_path: Path, wrong: str, absent: str, left_s: float, expected: tuple[bool, int, int, int]
) -> None:
    file = tmp_path / "test_device.py"
    file.write_text(TESTS.format(wrong=wrong, absent=absent))
    record = parts.run_tests(quick(tmp_path, deadline=left_s), paths=[str(file)])
    counts = (record["num_passed"], len(record["failed"]), len(record["skipped"]))
    assert (record["passed"], *counts) == expected


def test_targets_are_told_and_missing_one_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    targets = [
        parts.target("share", 0.9, least=0.85),
        parts.target("ratio", 1.1, most=1.05),
        parts.target("step", None, most=1.2),
    ]
    point = {"system": "astra", "rate": 2.0, "error_pct": {"mean_tpot_s": -15.04, "x": None}}
    check.print_results({"parts": {"times": {"targets": targets}, "point-astra": point}})
    assert capsys.readouterr().out.splitlines() == [
        "share: 0.900, >= 0.85: met",
        "ratio: 1.100, <= 1.05: MISSED",
        "step: <= 1.2: not measured",
        "astra at 2 req/s, simulated mean_tpot_s: -15.0 %",
        "astra at 2 req/s, simulated x: -",
    ]


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # none of these can be imported
from pathlib import Path
import bench.devices.kernels, bench.devices.profile, bench.point.serve
import benchmarks.gpu_check
from benchmarks.gpu_parts import Run, run_tests
benchmarks.gpu_check.describe_machine("cpu")
record = run_tests(Run("cpu", True, Path("."), float("inf")))
assert record["failed"] == {{}} and record["num_passed"] == 0, record
assert len(record["skipped"]) > 30 and all("no CUDA" in r for r in record["skipped"].values())
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts on the tests being skipped")
def test_nothing_is_needed_that_a_machine_with_a_gpu_may_lack() -> None:
    """It may have no network to install anything from, nor plugins of pytest."""
    absent = ("PIL", "docker", "hypothesis", "jinja2", "pytest_rerunfailures", "ray", "safetensors",
              "transformers", "xdist", "xformers")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_rates_follow_the_speed_of_a_step(tmp_path: Path) -> None:
    spec = PointSpec(system="astra", model="opt-13b", backend="cuda")

    def rate(name: str, step_overhead_s: float, **terms: float) -> float:
        profile = write_profile(tmp_path / f"{name}.toml", step_overhead_s=step_overhead_s, **terms)
        return parts.comparable_rate(spec, profile)

    assert rate("fast", 0.01) == pytest.approx(10 * rate("slow", 0.1), rel=0.05)
    two, four = (rate(f"{n}", 0.0, weight_bandwidth=1e12, element_bytes=n) for n in (2, 4))
    assert two == pytest.approx(2 * four, rel=0.05)
    assert parts.comparable_rate(spec, Path("a100-40gb")) == parts.PAPER_RATE


def test_measured_and_simulated_stand_side_by_side_with_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is played by a simulation whose steps take a quarter longer."""
    seen: list[PointSpec] = []
    true = write_profile(tmp_path / "true.toml", step_overhead_s=0.0125)
    write_profile(tmp_path / parts.PROFILE, step_overhead_s=0.01)

    def run_point(spec: PointSpec) -> Outcome:
        seen.append(spec)
        return real_run_point(spec if spec.backend == "sim" else parts.simulated(spec, true, 777))

    monkeypatch.setattr("bench.point.serve.run_point", run_point)
    record = parts.serve_point(quick(tmp_path), system="orca-oracle")
    assert [spec.backend for spec in seen] == ["cpu", "sim"]
    assert (seen[1].kv_slots, seen[1].shrink) == (777, 16)
    assert record["error_pct"]["mean_tpot_s"] == pytest.approx(-20, abs=3)


def test_a_point_needs_the_measured_profile(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*profile\.toml: run the part profile first"):
        parts.serve_point(quick(tmp_path), system="astra")


@pytest.mark.parametrize(
    ("predicted", "measured", "error"),
    [(1.5, 1.0, 50), (0.5, 1.0, -50), (None, 1.0, None), (1.0, None, None), (1.0, 0.0, None)],
)
def test_errors_are_relative_to_what_was_measured(
    predicted: float | None, measured: float | None, error: float | None
) -> None:
    found = parts.error_pct(predicted, measured)
    assert found is error if error is None else found == pytest.approx(error)


def test_settings_of_the_point_on_a_gpu() -> None:
    run = replace(quick(Path()), device="cuda", quick=False)
    spec = PointSpec(system="astra", backend="cuda", **parts._point_settings(run))
    assert (spec.model, spec.dtype, spec.gpu_memory, spec.duration) == (
        *("opt-13b", "float16", "40GiB"),
        120.0,
    )
