from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import driver_fakes as fakes
import pytest
from command_line import bench, passed, refused

from bench.cli import COMMANDS, main
from bench.experiments import registry
from bench.experiments.model import Curve, Figure, Panel
from bench.results import store as results
from bench.results.store import State, Store
from bench.sweep.local import LocalProcesses
from bench.sweep.runner import run_points

SHORT = ["--duration", "30", "--rate", "2", "--quiet"]
KEYS = {
    *("system", "model", "workload", "backend", "device", "rate", "duration", "seed"),
    *("requests", "finished", "steps", "throughput_tok_s", "mean_running_requests"),
    *("mean_normalized_latency_s", "p50_normalized_latency_s", "p90_normalized_latency_s"),
    *("p99_normalized_latency_s", "mean_ttft_s", "mean_tpot_s", "preemptions", "kv_slots"),
    *("kv_pct", "sharing_saving_pct", "wall_s", "host_us_per_step"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Figure:
    settings = {"duration": 20.0, "window": (5.0, 20.0), "workload": "sharegpt"}
    curves = (Curve("astra", (1.0, 2.0)), Curve("orca-max", (1.0,)))
    panel = Panel("tiny-sharegpt", "a tiny panel", curves, settings, {"duration": 40.0})
    figure = Figure("tiny", "Tiny", "0", "no claim", (panel,), plot="normalized-latency")
    monkeypatch.setitem(registry.FIGURES, figure.name, figure)
    monkeypatch.setattr(results, "source_hash", lambda: "unchanged while testing")
    return figure


BAD = {
    "run": "Missing option '--system'",
    "run --system astr": "did you mean astra?",
    "run --system astra --workload shargpt": "did you mean sharegpt",
    "run --system astra --rate 0": "rate must be a positive number, got 0",
    "run --system astra --rate nan": "'nan' is not a number",
    "run --system astra --rate 1e999": "'1e999' is not a number",
    "run --system astra --rate \uff11": "is not a number",
    f"run --system astra --seed {'9' * 5000}": "is not a whole number",
    "run --system astra --seed 007": "'007' is not a whole number",
    "run --system astra --sampling n04": "unknown sampling 'n04'",
    f"run --system astra --sampling n{'9' * 5000}": "unknown sampling 'n999",
    "run --system astra --backend cpu --gpu-memory 1e300GiB": "write it as 40GiB",
    f"run --system astra --backend cpu --gpu-memory {'9' * 400}GiB": "write it as 40GiB",
    "run --system ft --backend cpu --tensor-parallel 2 --ray a:\u0663": "--ray takes HOST:PORT",
    "kernels --batches 8,,9": "'' is not a whole number",
    "capacity --system astra --limit 1_0": "'1_0' is not a number",
    "reference --tolerance \u0661": "is not a number",
    "run --system astra --out=": "it is empty: name a file or folder",
    "figure tiny --artifacts=": "it is empty",
    "run --system astra --model=": "model is empty",
    "run --system astra --workload=": "workload is empty",
    "run --system astra --trace=": "'--trace'",
    "run --system astra --model a\x1b[31mb": r"unknown model 'a\x1b[31mb'",
    f"run --system astra --model {'m' * 9000}": "unknown model 'mmm",
    f"run --system astra --trace {'t' * 9000}": "'--trace'",
    f"figure {'f' * 9000}": "fff",
    "run --system astra --warmup -1": "'--warmup'",
    "run --system astra --window 300": "START:END",
    "run --system astra --window 9:3": "0 <= START < END",
    "run --system astra --window nan:3": "'nan' is not a number",
    "run --system astra --seed -1": "'--seed'",
    "run --system astra --seed 4294967296": "'--seed'",
    "run --system astra --tensor-parallel 1025": "at most 1,024, got 1,025",
    "run --system astra --replicas 10001": "replicas must be at most 10,000",
    "run --system astra --swap-space 1e9": "swap_space_gib must be at most 100,000",
    "run --system astra --swap-space 1e5 --backend sim": "more than 100,000,000 KV slots",
    "run --system astra --backend sim --gpu-memory 40GiB": "give --kv-slots or --device-profile",
    "run --system astra --backend sim --dtype float16": "counts only where a model runs",
    "run --system astra --backend sim --ray here:1": "--tensor-parallel 2 or more",
    "run --system astra --backend cpu --device-profile a100-40gb": "counts only for --backend sim",
    "run --system astra --block-size 257": "'--block-size'",
    "run --system astra --swap-space inf": "'--swap-space'",
    "run --system astra --replicas 0": "'--replicas'",
    "run --system astra --replicas 2 --backend cpu": "replicas are simulated only",
    "run --system astra --replicas 2 --router least-laden": "did you mean least-loaded",
    "run --system astra --router least-loaded": "give --replicas 2 or more",
    "run --system astra --trace none.csv": "'none.csv' does not exist",
    "run --system astra --trace bad.csv": "bad.csv line 3",
    "run --system astra --trace good.csv --rate 2": "good.csv has arrivals: omit --rate 2",
    "run --system astra --backend sim --shrink 1000000000": "--shrink must be at most the context",
    "run --system astra --out file/out": "is not a directory",
    f"run --system astra --out {'x' * 300}": "File name too long",
    "run --system astra --out loop/out": "Too many levels of symbolic links",
    "run --system astra --speeed 3": "No such option",
    "run --system astra --speed 3": "--speed counts only for a trace",
    "run --system astra --trace bad.csv --speed 0": "speed must be a positive number, got 0",
    "run --system astra --trace bad.csv --limit 0": "'--limit'",
    "run --system astra --trace bad.csv --start 9 --end 3": "--end must be later than --start",
    "run --system astra --trace bad.csv --too-long cut": "'cut' is not one of",
    "run --system astra --trace bad.csv --trace-column a=b": "--trace-column takes KEY=NAME",
    "run --system astra --trace bad.csv --lengths bad.csv": "not both",
    "figure fig122": "did you mean fig12",
    "figure": "Missing argument 'NAME...'",
    "figure tiny --artifacts file/a": "is not a directory",
    "figure tiny --lengths bad.csv": "bad.csv",
    "figure tiny --jobs 0": "'--jobs'",
    "figure tiny --build-arg x": "must be NAME=VALUE, got 'x'",
    "capacity --system astra --model opt-31b": "did you mean opt-30b or opt-13b",
    "capacity --system astra --workload shargpt": "did you mean sharegpt",
    "capacity --system astra --backend cpu --device-profile h200": "counts only for --backend sim",
    "plot fig122": "did you mean fig12",
    "plot tiny": "no results of 'tiny'",
    "report --artifacts file/a": "is not a directory",
    "data fetch alpacca": "did you mean alpaca?",
    "figur": "did you mean figure",
    "points /proc/self/mem": "is of no use here: Input/output error",
    f"doctor --artifacts {'x' * 300}": "is of no use here: File name too long",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_status_2_and_nothing_written(
    here: Path, tiny: Figure, line: str
) -> None:
    (here / "file").touch()
    (here / "loop").symlink_to("loop")
    (here / "good.csv").write_text("arrival_s,input_len,output_len\n0,5,5\n")
    (here / "bad.csv").write_text("arrival_s,input_len,output_len\n0,5,5\n1,x,5\n")
    before = sorted(here.rglob("*"))
    told = refused(*line.split())
    assert len(told) <= len("Error: \n") + 300
    assert told[:-1].isprintable()
    assert BAD[line] in told
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_backend_that_is_not_there_is_refused(here: Path, backend: str) -> None:
    told = refused("run", "--system", "astra", "--backend", backend, *SHORT)
    assert "--backend" in told or "smaller model" in told  # no torch, no GPU, or too little memory


def test_run_prints_one_json_object_and_writes_nothing(here: Path) -> None:
    result = passed("run", "--system", "astra", "--json", *SHORT)
    metrics = json.loads(result.stdout)
    assert set(metrics) >= KEYS
    assert set(metrics["kv_pct"]) == {"token", "reservation", "internal", "external"}
    assert metrics["backend"] == "sim"
    assert "backend sim" in result.stderr
    assert metrics["finished"] == metrics["requests"] > 0
    assert not list(here.iterdir())


def test_run_prints_a_table(here: Path) -> None:
    result = passed("run", "--system", "orca-pow2", *SHORT)
    assert "mean_normalized_latency_s" in result.stdout
    assert "kv_pct reservation" in result.stdout


def test_run_writes_the_point_where_asked(here: Path) -> None:
    for out in ("a", "b"):
        assert bench("run", "--system", "astra", "--out", out, *SHORT).exit_code == 0
    for name in ("metrics.json", "requests.parquet"):
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes()
    point = json.loads((here / "a" / "point.json").read_text())
    assert point["provenance"]["command"].startswith("bench run --system astra")
    assert sorted(path.name for path in (here / "a").iterdir()) == [
        "metrics.json", "point.json", "requests.parquet"
    ]  # fmt: skip


def test_a_trace_brings_its_own_rate_and_duration(here: Path) -> None:
    rows = "".join(f"{i / 2},20,10\n" for i in range(41))
    (here / "trace.csv").write_text("arrival_s,input_len,output_len\n" + rows)
    words = ["run", "--system", "ft", "--trace", "trace.csv", "--json", "--quiet"]
    metrics = json.loads(bench(*words).stdout)
    assert metrics["requests"] == 41
    assert metrics["duration"] == 20.0
    assert metrics["rate"] == pytest.approx(41 / 20)
    for name in ("--rate", "--duration"):
        assert f"omit {name}" in refused(*words, name, "9")


def test_figure_runs_draws_skips_and_reruns(here: Path, tiny: Figure) -> None:
    dry = passed("figure", "tiny", "--dry-run")
    assert "3 of 3 points would run" in dry.stdout
    assert not list(here.iterdir())
    first = passed("figure", "tiny", "tiny-sharegpt", "--jobs", "2")
    paths = [Path(line) for line in first.stdout.splitlines()]
    assert {path.name for path in paths} == {
        "tiny.pdf", "tiny.png", "tiny-sharegpt.pdf", "tiny-sharegpt.png"
    }  # fmt: skip
    assert all(path.stat().st_size > 0 for path in paths)
    assert "3 run" in first.stderr
    second = bench("figure", "tiny", "--no-plot")
    assert "3 already complete" in second.stderr
    assert second.stdout == ""
    assert "3 run" in bench("figure", "tiny", "--no-plot", "--force").stderr
    assert "3 run" in bench("figure", "tiny", "--no-plot", "--seed", "5").stderr
    assert "3 run" in bench("figure", "tiny", "--no-plot", "--short", "--quiet").stderr
    passed("plot", "tiny", "--seed", "5")


def test_a_failing_point_is_named_and_the_status_is_1(
    here: Path, tiny: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(store: Store, points: Any, **options: Any) -> Any:
        return run_points(
            store, points, place=LocalProcesses(run=fakes.refuse_high_rates), force=options["force"]
        )

    monkeypatch.setattr("bench.commands.figure.run_points", bring)
    result = bench("figure", "tiny")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("failed: astra_opt-13b_sharegpt_n1_r2-")
    assert last.endswith(": too fast")
    assert result.stdout.count("tiny.p") == 2  # what is there is drawn, with a gap
    states = [Store("artifacts").state(spec) for spec in tiny.points()]
    assert states == [State.COMPLETE, State.MISSING, State.COMPLETE]


def test_report_and_figures(here: Path) -> None:
    passed("report")
    assert (here / "artifacts" / "report" / "report.md").exists()
    assert json.loads(bench("report", "--json").stdout)
    listed = json.loads(bench("figures", "--json").stdout)
    assert [row["name"] for row in listed] == list(registry.FIGURES)
    assert "fig12-13b" in bench("figures").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = passed(name, "--help")
    assert "Usage: " in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print({'numpy', 'pandas', 'matplotlib', 'pyarrow', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    for name in COMMANDS:
        assert name in done.stdout


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "bench", "figures"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_signs_that_a_terminal_lacks_are_escapes_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "report", "--artifacts", str(tmp_path)]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=env, capture_output=True, encoding="ascii", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xb15.0 %" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    "line", ["--help", "data", "figures", "run --system astra --duration 20 --json --quiet"]
)
def test_output_that_has_no_room_is_told_in_one_line(line: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bench", *line.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "Error: no space left for the output: free some, or send it elsewhere"
    )
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_an_error_is_told_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.echo", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["figur"])
    assert ended.value.code == 130
