"""The check of a GPU, on the CPU and in small: its sections, its record, its exit status."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.core.errors import UserError

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """The tool is run from the repository's root, where its package is found."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.gpu_check"), importlib.import_module(
        "benchmarks.gpu_sections"
    )


@pytest.fixture
def small(
    small_device: None, modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The check, on next to nothing."""
    from benchmarks import exactness

    monkeypatch.setattr(exactness, "SAMPLINGS", ("beam2",))
    return modules[0]


def run(check: ModuleType, out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status = check.main(["--device", "cpu", "--quick", "--out", str(out), *words])
    return status, json.loads((out / check.FILE).read_text())


def test_everything_runs_and_is_recorded(small: ModuleType, tmp_path: Path) -> None:
    status, record = run(small, tmp_path)
    sections = record["sections"]
    assert {name: part.get("error") for name, part in sections.items() if not part["passed"]} == {}
    assert status == 0
    assert record["passed"]
    assert sections["kernels"]["run"] == 40
    assert sections["kernels"]["complete"]
    assert 0 < max(sections["kernels"]["largest_errors"].values()) <= 1e-2
    assert sections["tokens"]["run"] == 20
    assert {row["kind"] for row in sections["kernel-times"]["attention"]} == {"paged", "contiguous"}
    assert [row["block_size"] for row in sections["recovery-times"]["recovery"]] == [16, 64]
    assert [row["num_seqs"] for row in sections["decode-times"]["rows"]] == [1, 4]
    assert all(0 < row["host_us"] < 1e6 * row["step_s"] for row in sections["decode-times"]["rows"])
    assert any(line.startswith("kv_bandwidth = ") for line in sections["profile"]["toml"])
    known = record["provenance"]
    assert known["torch"] == torch.__version__
    assert len(known["source_sha256"]) == 64
    assert {"git_commit", "device", "started", "ended"} <= set(known)


def test_a_section_that_fails_is_recorded_and_the_rest_goes_on(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, sections = modules

    def explode(run: object) -> dict[str, Any]:
        raise RuntimeError("on purpose")

    def refuse(run: object) -> dict[str, Any]:
        raise UserError("no memory")

    parts = (
        sections.Section("explodes", 1, explode),
        sections.Section("refuses", 1, refuse),
        sections.Section("wrong", 1, lambda run: {"passed": False}),
        sections.Section("right", 1, lambda run: {"answer": 42}),
    )
    monkeypatch.setattr(check, "SECTIONS", parts)
    status, record = run(check, tmp_path)
    assert status == 1
    assert not record["passed"]
    found = record["sections"]
    assert found["explodes"]["error"] == "RuntimeError: on purpose"
    assert any("explode" in line for line in found["explodes"]["traceback"])
    assert found["refuses"]["traceback"] == []
    assert [found[name]["passed"] for name in ("refuses", "wrong", "right")] == [False, False, True]
    assert found["right"]["answer"] == 42


def test_a_device_that_is_lost_is_recorded_after_each_section(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kernel's illegal access every call fails, those that clear up among them."""
    check, sections = modules
    seen: list[dict[str, Any]] = []

    def lose(device: str) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def look(run: object) -> dict[str, Any]:
        seen.append(json.loads((tmp_path / check.FILE).read_text()))
        return {}

    parts = [sections.Section(name, 1, work) for name, work in (("a", lambda run: {}), ("b", look))]
    monkeypatch.setattr(check, "SECTIONS", parts)
    monkeypatch.setattr(check, "release", lose)
    status, record = run(check, tmp_path)
    assert status == 1
    lost = "the device is lost: CUDA error: an illegal memory access was encountered"
    assert {name: part["error"] for name, part in record["sections"].items()} == {
        "a": lost,
        "b": lost,
    }
    assert list(seen[0]["sections"]) == ["a"]
    assert not seen[0]["passed"]


def test_a_part_of_the_record_has_not_passed(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, sections = modules
    parts = [sections.Section(name, 1, lambda run: {}) for name in "ab"]
    monkeypatch.setattr(check, "SECTIONS", parts)
    records = check.check_device("cpu", quick=True)
    assert [record["passed"] for record in records] == [False, True]


def test_a_case_that_raises_is_named(
    modules: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import kernel_check

    def explode(target: object) -> float:
        raise RuntimeError("CUDA error: misaligned address")

    case = kernel_check.Case("paged float16 head 80", 0.0, explode)
    monkeypatch.setattr(kernel_check, "whole_grid", lambda device: [case])
    section = modules[1].Section("kernels", 1, modules[1].check_kernels)
    record = modules[0].run_section(section, modules[1].Run("cpu", quick=True, deadline=math.inf))
    message = "RuntimeError: case paged float16 head 80: CUDA error: misaligned address"
    assert record["error"] == message


def test_no_section_starts_once_the_time_is_used_up(
    modules: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, sections = modules
    parts = (
        sections.Section("short", 1, lambda run: {}),
        sections.Section("long", 1, lambda run: {}, whole_s=200),
    )
    monkeypatch.setattr(check, "SECTIONS", parts)
    for total_s, in_time in ((0.0, set()), (100.0, {"short"}), (1000.0, {"short", "long"})):
        monkeypatch.setattr(check, "TOTAL_S", total_s)
        status, record = run(check, tmp_path)
        found = record["sections"]
        assert {name for name in found if found[name]["passed"]} == in_time
        late = {found[name]["error"] for name in found if name not in in_time}
        assert late <= {"not started: the time was used up"}
        assert status == (0 if len(in_time) == len(parts) else 1)


def test_targets_are_told_and_missing_one_is_no_failure(
    modules: tuple[ModuleType, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    check, sections = modules
    targets = [
        sections.target("share", 0.9, least=0.85),
        sections.target("ratio", 1.1, most=1.05),
        sections.target("step", None, most=1.2),
    ]
    assert [t["met"] for t in targets] == [True, False, None]
    check.print_targets({"sections": {"times": {"targets": targets}}})
    assert capsys.readouterr().out.splitlines() == [
        "share: 0.900, >= 0.85: met",
        "ratio: 1.100, <= 1.05: MISSED",
        "step: <= 1.2: not measured",
    ]


WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import benchmarks.gpu_check, benchmarks.gpu_point, benchmarks.gpu_sections
import bench.devices.kernels, bench.devices.profile, bench.point.serve
import engines.execution.probe, engines.execution.setup
import benchmarks.exactness, bench.devices.measure
benchmarks.gpu_check.describe_machine("cpu")
"""


def test_nothing_but_torch_and_numpy_is_needed() -> None:
    """A machine with a GPU may have no network to install anything from."""
    absent = ("click", "matplotlib", "pandas", "PIL", "pyarrow", "rich", "safetensors",
              "transformers", "xformers", "ray", "docker")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT % (absent,)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_checks_that_were_cut_short_do_not_pass(small: ModuleType) -> None:
    sections = importlib.import_module("benchmarks.gpu_sections")
    over = sections.Run("cpu", quick=True, deadline=0.0)
    for section in (sections.check_kernels, sections.check_tokens):
        record = section(over)
        assert not record["complete"]
        assert not record["passed"]


def test_without_a_gpu_it_says_so_in_one_line(
    modules: tuple[ModuleType, ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert modules[0].main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no CUDA device here: run this on a machine with a GPU"
    ]
    assert not (tmp_path / "out").exists()
