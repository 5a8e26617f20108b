"""Ranks from the command line: bad options, sweeps that lose a rank, no orphans."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import (
    TRIED_TWICE,
    command_of,
    descendants,
    started,
    the_one,
    wait_until,
)
from ray_clusters import AGENTS
from real_serving import checkpoint, expected

from bench.cli import main
from bench.point.platform import Progress
from bench.point.serve import Outcome, run_point
from bench.point.spec import PointSpec
from bench.results.store import State, Store
from bench.sweep.local import LocalProcesses
from bench.sweep.runner import run_points

if importlib.util.find_spec("ray") is None:
    pytest.skip("tests of tensor parallelism left out: ray needed", allow_module_level=True)

from engines.execution.ranks import Ranks

pytestmark = pytest.mark.alone

PROMPT = [5, 17, 3, 88]


def generate(folder: Path, *options: str) -> list[str]:
    """The words of a command that generates six tokens."""
    file = folder / "in.jsonl"
    file.write_text(json.dumps({"prompt_token_ids": PROMPT, "max_tokens": 6}), encoding="utf-8")
    words = ["generate", "--system", "astra", "--backend", "cpu", "--kv-slots", "1024", "--json"]
    return [*words, "--model", str(checkpoint("opt").directory), "--input", str(file), *options]


def test_one_device_needs_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it would fail
    result = CliRunner().invoke(main, generate(tmp_path, "--tensor-parallel", "1"))
    assert result.exit_code == 0, result.output
    outputs = json.loads(result.stdout)["outputs"]
    assert [o["token_ids"] for o in outputs] == expected("opt", tuple(PROMPT), 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tensor-parallel", "3"), r"degree 3 does not divide .* choose 1, 2"),
        (("--tensor-parallel", "0"), "0 is not in the range"),
        (("--ray", "127.0.0.1:9"), "counts only for a model in slices"),
        (("--tensor-parallel", "2", "--dtype", "float16"), "float16 needs --backend cuda"),
        (("--tensor-parallel", "2", "--ray", "127.0.0.1:9"), "no Ray cluster answers at 127.0.0.1"),
        (("--tensor-parallel", "2", "--ray", "ray://here:1"), "takes HOST:PORT of a cluster"),
        (("--tensor-parallel", "2", "--ray", "nowhere"), "takes HOST:PORT of a cluster"),
    ],
)
def test_what_cannot_run_says_why(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    words = generate(tmp_path, *options)
    began = time.monotonic()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert time.monotonic() - began < 30  # eight seconds where the machine is not busy
    (line,) = [line for line in result.stderr.splitlines() if "Error" in line]
    assert re.search(message, line), line


def run_and_lose_a_rank_once(spec: PointSpec, *, on_progress: Progress | None = None) -> Outcome:
    """Run a point; the first time a rank is killed."""
    assert spec.trace is not None
    died = Path(spec.trace).with_suffix(".died")
    run = Ranks.run

    def kill_once(self, *args, **named):
        if not died.exists():
            died.touch()
            os.kill(self.places[1].pid, signal.SIGKILL)
        return run(self, *args, **named)

    Ranks.run = kill_once
    return run_point(spec, on_progress=on_progress)


@TRIED_TWICE
@pytest.mark.slow
def test_a_point_that_loses_a_rank_is_run_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{0.01 * i},{3 + i % 5},{14 + i % 7}" for i in range(8)]
    trace.write_text("\n".join(["arrival_s,input_len,output_len", *rows]), encoding="utf-8")
    spec = PointSpec(
        system="astra", model=str(checkpoint("llama").directory), backend="cpu", trace=str(trace),
        kv_slots=512, warmup=0.0, window=(0.0, 60.0),
        tensor_parallel=2,
    )  # fmt: skip
    store = Store(tmp_path / "results")
    summary = run_points(store, [spec], place=LocalProcesses(run=run_and_lose_a_rank_once))
    assert summary.failed == ()
    assert trace.with_suffix(".died").exists()
    assert summary.done == (spec,)
    assert store.state(spec) is State.COMPLETE


def is_serving(root: int) -> bool:
    return any("Rank.run" in command for command in descendants(root).values())


@contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that serves a long trace on two ranks, which are at work."""
    trace = folder / "trace.csv"
    trace.write_text("arrival_s,input_len,output_len\n" + "0,4,50\n" * 5000, encoding="utf-8")
    words = ["run", "--system", "astra", "--backend", "cpu", "--kv-slots", "512", "--quiet"]
    words += ["--trace", str(trace), "--warmup", "0", "--tensor-parallel", "2"]
    words += ["--model", str(checkpoint("opt").directory)]
    with started([sys.executable, "-m", "bench", *words]) as process:
        wait_until(lambda: process.poll() is not None or is_serving(process.pid), "ranks to serve")
        yield process


@TRIED_TWICE
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_is_left_when_the_driver_goes(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with serving(tmp_path) as process:
        below = descendants(process.pid)
        assert len(below) > 5
        os.killpg(process.pid, number)
        assert process.wait(60) == status
        wait_until(lambda: not any(map(command_of, below)), "all its processes to end")
        assert process.stderr is not None
        lines = process.stderr.read().strip()
    assert lines == ("Error: interrupted" if number == signal.SIGINT else "")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """For Ray's files, which nobody removes where the process that started it is killed.

    The name is short enough for Ray's sockets.
    """
    with tempfile.TemporaryDirectory(prefix="rank-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@TRIED_TWICE
@pytest.mark.slow
@pytest.mark.parametrize("name", ["/gcs_server ", "/raylet "])
def test_a_head_that_dies_is_told_and_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    with serving(tmp_path) as process:
        below = descendants(process.pid)
        os.kill(the_one(below, name), signal.SIGKILL)
        assert process.wait(30) == 1  # within ten seconds where the machine is not busy
        prompt = [pid for pid, command in below.items() if not AGENTS.search(command)]
        wait_until(lambda: not any(map(command_of, prompt)), "its processes to end")
        assert process.stderr is not None
        (line,) = process.stderr.read().strip().splitlines()
    assert line.startswith(("Error: the head of the Ray cluster died", "Error: rank"))
