"""The command that checks a GPU: its parts, budgets, record and exit status, with parts of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_fakes
import pytest
from processes import alive, wait_until

pytest.importorskip("torch")

from benchmarks import gpu_check as check
from benchmarks import gpu_run
from benchmarks.gpu_run import LATE, Part, Run, isolate

ROOT = Path(check.__file__).parents[1]
SCRIPT = """
import sys, gpu_fakes
from benchmarks import gpu_check
gpu_check.PARTS = gpu_fakes.FOUR
sys.exit(gpu_check.main(["--device", "cpu", "--out", sys.argv[1]]))
"""


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Part, ...]:
    monkeypatch.setattr(check, "PARTS", gpu_fakes.FAILING)
    return gpu_fakes.FAILING


def run(out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status = check.main(["--device", "cpu", "--out", str(out), *words])
    return status, json.loads((out / check.FILE).read_text())


def test_the_budgets_of_all_parts_fit_into_eleven_minutes() -> None:
    names = ["library", "versions", "tokens", "kernel-grid", "prompt-times", "kernel-times",
             "decode-times", "decode-kernels", "swap", "validate"]  # fmt: skip
    assert [part.name for part in check.PARTS] == names
    usual = Run("cuda", Path())
    budgets = {part.name: part.budget(usual) for part in check.PARTS if part.name != "library"}
    assert sum(budgets.values()) <= check.TOTAL_S < 11 * 60


def test_a_part_that_fails_in_any_way_is_recorded_and_the_rest_goes_on(
    parts: tuple[Part, ...], tmp_path: Path
) -> None:
    status, record = run(tmp_path)
    found = record["parts"]
    assert (status, record["passed"]) == (1, False)
    assert found["explode"]["error"] == "RuntimeError: on purpose"
    assert any("explode" in line for line in found["explode"]["traceback"])
    assert (found["refuse"]["error"], found["refuse"]["traceback"]) == ("UserError: no memory", [])
    assert found["die"]["error"] == f"its process died with status {-signal.SIGABRT}"
    assert {name for name in found if found[name]["passed"]} == {"answer"}
    assert set(found) == {part.name for part in parts}
    assert found["answer"]["answer"] == 42
    assert {"git_commit", "source_sha256", "started", "ended"} <= set(record["provenance"])


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["--only", "answer", "refuse"], ["refuse", "answer"]),
        (["--skip", "explode", "die", "refuse", "disappoint"], ["answer"]),
        (["--only", "die", "answer", "--skip", "die"], ["answer"]),
    ],
)
def test_parts_can_be_chosen_and_keep_their_order(
    parts: tuple[Part, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    chosen: list[str],
) -> None:
    status, record = run(tmp_path, *words)
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert [line.split()[0] for line in lines] == chosen
    assert set(record["parts"]) == set(chosen)
    assert status == int(chosen != ["answer"])


def test_a_part_that_hangs_is_killed_with_its_own_processes(tmp_path: Path) -> None:
    started = time.monotonic()
    record = isolate(Part("hang", gpu_fakes.hang, 4), Run("cuda", tmp_path))
    assert (record["passed"], record["error"]) == (False, "killed after 4 s")
    assert time.monotonic() - started < 20
    pid = int((tmp_path / "sleeping").read_text())
    wait_until(lambda: not alive(pid), "the part's own process to end")


def test_a_part_stops_a_little_before_it_would_be_killed(tmp_path: Path) -> None:
    record = isolate(Part("answer", gpu_fakes.answer, 100), Run("cuda", tmp_path))
    assert 50 < record["left_s"] < 100 - gpu_run._MARGIN_S
    late = Run("cuda", tmp_path, deadline=time.monotonic() + 30)
    assert isolate(Part("answer", gpu_fakes.answer, 100), late)["left_s"] < 30


def test_no_part_starts_once_the_time_is_used_up(
    parts: tuple[Part, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "TOTAL_S", 1.0)
    monkeypatch.setattr("engines.kernels.driver.require_cuda", lambda: None)
    status, record = run(tmp_path, "--device", "cuda")
    assert {part["error"] for part in record["parts"].values()} == {LATE}
    assert (status, record["passed"]) == (1, False)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_an_interrupted_check_keeps_the_parts_that_had_ended(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_until((tmp_path / "sleeping").exists, "the fourth part")
    wait_until((tmp_path / "sleeping").read_text, "its process")
    process.send_signal(number)
    assert process.wait(60) == status
    record = json.loads((tmp_path / check.FILE).read_text())
    assert (set(record["parts"]), record["passed"]) == ({"first", "second", "third"}, False)
    assert all(part["passed"] for part in record["parts"].values())
    pid = int((tmp_path / "sleeping").read_text())
    if number is signal.SIGINT:
        wait_until(lambda: not alive(pid), "the part's own process to end")
    elif alive(pid):
        os.killpg(os.getpgid(pid), signal.SIGKILL)


def test_targets_are_told_and_missing_one_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gpu_times import target

    targets = [
        target("share", 0.9, least=0.85),
        target("ratio", 1.1, most=1.05),
        target("step", None, most=1.2),
    ]
    aim = {"metric": "mean_tpot_s", "median": 0.012, "worst": 0.0504, "limit": 0.05}
    prompts = [{"cudnn": True, "first_s": 0.1, "again_s": 2e-4}]
    check.print_results(
        {
            "parts": {
                "times": {"targets": targets},
                "validate": {"validation": {"aims": [aim]}},
                "prompt-times": {"rows": prompts},
            }
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "share: 0.900, >= 0.85: met",
        "ratio: 1.100, <= 1.05: MISSED",
        "step: <= 1.2: not measured",
        "simulated mean_tpot_s: off by 1.2% in the median, at most 5.0% (aim: 5%)",
        "a prompt's attention, cuDNN allowed: 100.00 ms, again 0.20",
    ]
