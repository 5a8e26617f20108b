"""What the check of a GPU measures and checks, on the CPU and in small."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from pretended_device import Graph, pretended_device
from small_devices import write_measured_profile

from benchmarks import gpu_check, gpu_checks, gpu_times
from benchmarks.gpu_run import Run, perform
from engines.core.errors import UserError

__all__ = ["pretended_device"]

ROOT = gpu_checks.ROOT


def quick(out: Path, *, deadline: float = math.inf) -> Run:
    return Run("cpu", out, deadline, quick=True, serving_s=40)


def test_everything_runs_and_is_recorded(
    small_device: None, pretended_device: type[Graph], tmp_path: Path
) -> None:
    """All but the tests and the library, on a CPU that passes for a GPU where it decodes."""
    left_out = ("library", "tokens", "kernel-grid")
    parts = [part for part in gpu_check.PARTS if part.name not in left_out]
    write_measured_profile(tmp_path / "validation" / "profile.toml")
    found = {part.name: perform(part, quick(tmp_path)) for part in parts}
    assert {name: part.get("error") for name, part in found.items() if not part["passed"]} == {}
    assert found["versions"]["torch"] == torch.__version__
    prompts = found["prompt-times"]["rows"]
    assert [row["length"] for row in prompts if row["cudnn"]] == list(gpu_times.PROMPT_LENS)
    assert len(prompts) == 2 * len(gpu_times.PROMPT_LENS)
    ways = {way["implementation"]: way for way in found["prompt-times"]["ways"]}
    assert ways["per sequence"]["device_us"] > 0
    assert {"flash", "xformers"} < set(ways)
    assert {row["kind"] for row in found["kernel-times"]["attention"]} == {"paged", "contiguous"}
    assert [row["num_seqs"] for row in found["decode-times"]["rows"]] == [1, 4]
    assert all(0 < row["host_us"] < 1e6 * row["step_s"] for row in found["decode-times"]["rows"])
    names = [row["name"] for row in found["decode-kernels"]["rows"]]
    assert any("paged_attention" in name for name in names)
    assert found["swap"]["preemptions"] > 0
    validation = found["validate"]["validation"]
    assert {point["system"] for point in validation["points"]} == {"astra", "orca-oracle"}
    assert pretended_device.replays > pretended_device.captures > 3


@pytest.mark.slow
def test_parts_run_in_processes_of_their_own(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--quick", "--only", "versions", "library", "prompt-times"]
    assert gpu_check.main([*words, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / gpu_check.FILE).read_text())
    assert record["parts"]["library"]["library"].startswith("_cpu-")
    assert record["parts"]["versions"]["paged_error"] < 1e-5


def test_a_library_of_other_sources_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "_cpu-0123456789ab.so"
    other.touch()
    record = gpu_check.PARTS[0].run
    with pytest.raises(UserError, match="is no library of these sources: its name must begin with"):
        record(replace(quick(tmp_path), library=other))


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
    record = gpu_checks.run_tests(quick(tmp_path, deadline=left_s), paths=[str(file)])
    counts = (record["num_passed"], len(record["failed"]), len(record["skipped"]))
    assert (record["passed"], *counts) == expected


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_device.py").write_text("import no_such_package")
    paths = [str(tmp_path / "test_device.py")]
    record = gpu_checks.run_tests(quick(tmp_path), paths=paths)
    (why,) = record["failed"].values()
    assert (record["passed"], "No module named 'no_such_package'" in why) == (False, True)


SLOW_TESTS = """
import pytest, time
@pytest.mark.gpu
@pytest.mark.parametrize("part", range(4))
def test_part(part): time.sleep(0.3)
"""


@pytest.mark.parametrize("sample", [True, False])
def test_only_of_a_sample_may_tests_be_left_when_the_time_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: bool
) -> None:
    (tmp_path / "test_slow.py").write_text(SLOW_TESTS)
    left = iter([5.0, 5.0, 0.0, 0.0])
    monkeypatch.setattr(Run, "left_s", property(lambda _run: next(left)))
    paths = [str(tmp_path / "test_slow.py")]
    record = gpu_checks.run_tests(quick(tmp_path), paths=paths, keyword="part", sample=sample)
    assert (record["num_passed"], len(record["skipped"])) == (2, 2)
    assert record["passed"] is sample


SANITIZER = """#!/bin/sh
echo "$@"
echo "========= COMPUTE-SANITIZER"
{script}
"""


@pytest.mark.parametrize(
    ("script", "left_s", "passed", "finished"),
    [
        ("echo all well", 60, True, True),
        ("echo '========= Invalid __global__ read of size 4 bytes'; exit 9", 60, False, True),
        ("exit 3", 60, False, True),
        ("exec sleep 30", 0, True, False),
        ("echo '========= Invalid __shared__ write'; exec sleep 30", 0, False, False),
    ],
)
def test_the_sanitizers_errors_fail_the_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, left_s: float, passed: bool,
    finished: bool,
) -> None:  # fmt: skip
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(script=script))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(Run, "left_s", property(lambda _run: left_s))
    record = gpu_checks.check_grid(replace(quick(tmp_path), sanitize=True))
    assert (record["passed"], record["finished"]) == (passed, finished)
    assert len(record["errors"]) == ("Invalid" in script)
    assert "-m pytest -m gpu" in record["log"][0]


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))  # none of these can be imported
from pathlib import Path
import bench.devices.kernels, bench.devices.profile, bench.point.serve
from benchmarks import gpu_check, gpu_checks
from benchmarks.gpu_run import Run
run = Run("cpu", Path("."))
gpu_checks.check_versions(run)
for part in (gpu_checks.check_tokens, gpu_checks.check_grid):
    record = part(run)
    assert record["failed"] == {{}} and record["num_passed"] == 0, record
    assert len(record["skipped"]) > 10, record
    assert all("no CUDA" in reason for reason in record["skipped"].values()), record
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts on the tests being skipped")
def test_nothing_is_needed_that_a_machine_with_a_gpu_may_lack() -> None:
    """It may have no network to install anything from, nor plugins of pytest."""
    absent = ("PIL", "docker", "hypothesis", "jinja2", "matplotlib", "pytest_rerunfailures", "ray",
              "safetensors", "transformers", "xdist", "xformers")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent)],
        cwd=ROOT,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
