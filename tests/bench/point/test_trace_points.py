"""A point that replays a trace: its identity, its record, and what the command says of it."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from published_traces import FORMATS, ROWS

from bench.cli import main
from bench.point.spec import PointSpec
from bench.results.provenance import command_of
from bench.results.store import Check, State, Store
from bench.sweep.local import LocalProcesses
from bench.sweep.runner import run_points
from engines.core.errors import UserError

FAILURES = [(20.0, 500, 0), (21.0, 2000, 100), (22.0, 2000, 99)]
OPTIONS = {
    "trace_column": ("input=Request tokens",), "too_long": "drop", "zero_output": "drop",
    "limit": 4, "start": 0.1, "end": 30.0, "speed": 2.0,
}  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "burst gpt.csv"
    path.write_text(FORMATS["burstgpt-3"]([*ROWS, *FAILURES]))
    return path


def bench(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def test_settings_of_traces_are_no_part_of_other_points() -> None:
    assert not OPTIONS.keys() & PointSpec(system="astra").to_dict().keys()
    plain = PointSpec(system="astra", trace="x.csv")
    assert not OPTIONS.keys() & plain.to_dict().keys()
    digests = {plain.digest}
    for name, value in OPTIONS.items():
        settings: dict[str, Any] = {name: value}
        spec = PointSpec(system="astra", trace="x.csv", **settings)
        assert spec.to_dict().keys() - plain.to_dict().keys() == {name}
        assert PointSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        digests.add(spec.digest)
        with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} counts only for a trace"):
            PointSpec(system="astra", **settings)
    assert len(digests) == 1 + len(OPTIONS)


def test_the_result_says_what_was_served(trace: Path, tmp_path: Path) -> None:
    """On standard error, in the metrics and in the record, with the hash of the file."""
    words = ["run", "--system", "astra", "--backend", "sim", "--quiet", "--warmup", "0", "--json"]
    words += ["--trace", str(trace), "--out", str(tmp_path / "out"), "--too-long", "drop"]
    words += ["--zero-output", "drop", "--limit", "4", "--start", "0.1"]
    result = bench(*words)
    assert result.exit_code == 0, result.output
    dropped = {"outside": 1, "zero_output": 1, "too_long": 2, "beyond_limit": 0, "truncated": 0}
    assert json.loads(result.stdout)["dropped"] == dropped
    assert result.stderr.splitlines()[:3] == [
        "trace: 1 of 8 requests arrive outside --start and --end",
        "trace: 1 of 8 requests have no tokens and are left out",
        "trace: 2 of 8 requests are longer than the model's context and are left out",
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["dropped"] == dropped
    point = json.loads((tmp_path / "out" / "point.json").read_text())
    assert point["provenance"]["trace"]["dropped"] == dropped
    assert point["provenance"]["trace"]["format"] == "BurstGPT"
    sha256 = hashlib.sha256(trace.read_bytes()).hexdigest()
    assert point["provenance"]["input_files"] == {"trace": sha256}
    again = bench(*shlex.split(point["provenance"]["command"])[1:], "--json", "--quiet")
    assert json.loads(again.stdout)["throughput_tok_s"] == point["metrics"]["throughput_tok_s"]


def test_the_command_of_a_trace_parses_back(trace: Path) -> None:
    spec = PointSpec(system="astra", trace=str(trace), **OPTIONS)
    words = shlex.split(command_of(spec))
    assert "--duration" not in words
    assert words[words.index("--trace-column") + 1] == "input=Request tokens"
    result = bench(*words[1:], "--quiet", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["requests"] == 4


def test_a_trace_point_is_kept_in_the_store(trace: Path, tmp_path: Path) -> None:
    spec = PointSpec(system="astra", trace=str(trace), warmup=0.0, **OPTIONS)
    store = Store(tmp_path / "artifacts")
    run_points(store, [spec], place=LocalProcesses(jobs=1))
    assert store.state(spec) is State.COMPLETE
    trace.write_text(trace.read_text() + "\n")
    assert store.check(spec) == Check(State.STALE, "the trace file has changed")


@pytest.mark.parametrize("row", ["0,5,1", "7.5,5,1", "1700000000,5,1"])
@pytest.mark.parametrize("system", ["astra", "orca-max", "ft"])
def test_a_trace_of_one_short_request_runs(tmp_path: Path, row: str, system: str) -> None:
    path = tmp_path / "one.csv"
    path.write_text(f"arrival_s,input_len,output_len\n{row}\n")
    words = ["run", "--system", system, "--backend", "sim", "--trace", str(path), "--json"]
    result = bench(*words, "--quiet")
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)
    assert (metrics["finished"], metrics["mean_running_requests"]) == (1, 1.0)
    assert metrics["duration"] < 10
