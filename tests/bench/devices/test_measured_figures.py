"""Figures made by a microbenchmark: run, kept, drawn, held against the paper."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from command_line import bench, passed, refused
from made_up_kernels import measured

from bench.claims.verdicts import Status
from bench.experiments import registry
from bench.experiments.tables import Choice
from bench.report.build import build_report
from bench.results import measurements as kernel_results
from bench.results.store import Store


def keep(root: Path, found: dict) -> None:
    folder = kernel_results.measured_directory(root, "attention", found["backend"])
    kernel_results.write_measurement(folder, found)


@pytest.mark.usefixtures("small_device")
def test_the_kernels_figure_is_measured_on_the_cpu_once_and_drawn(tmp_path: Path) -> None:
    words = ("figure", "fig18-a", "--backend", "sim", "--artifacts", str(tmp_path))
    done = passed(*words)
    assert "fig18-a: measured, not simulated: timing kernels on this CPU" in done.stderr
    assert "simulating" not in done.stderr
    assert (tmp_path / "figures" / "fig18-a.png").exists()
    path = tmp_path / "kernels" / "attention-cpu" / "kernels.json"
    found = json.loads(path.read_text())
    shapes = {(row["batch_size"], row["context_len"]) for row in found["ratios"]}
    assert shapes == {(b, c) for b in (8, 32) for c in (64, 128, 256)}
    assert found["recovery"] == []
    before = path.read_bytes()
    assert "measured already" in bench(*words).stderr
    assert path.read_bytes() == before
    passed("plot", "fig18-a", "--backend", "sim", *words[4:])
    planned = bench(*words, "--dry-run", "--force")
    assert "fig18-a would be measured on a device" in planned.stdout


@pytest.mark.usefixtures("small_device")
def test_recovery_is_measured_where_models_run(tmp_path: Path) -> None:
    words = ("figure", "fig19-a", "--backend", "cpu", "--artifacts", str(tmp_path))
    passed(*words)
    found = json.loads((tmp_path / "kernels" / "recovery-cpu" / "kernels.json").read_text())
    assert [row["block_size"] for row in found["recovery"]] == [2**i for i in range(9)]
    assert not (tmp_path / "scale-cpu.json").exists()


def test_without_pytorch_the_figure_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    options = ("--backend", "sim", "--artifacts", str(tmp_path))
    done = bench("figure", "fig18-a", *options)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: measuring a device needs PyTorch")
    both = passed("figure", "fig18-a", "fig2", *options, "--no-plot")
    assert "left out: fig18-a: measuring a device needs PyTorch" in both.stderr


def test_nothing_to_draw_says_how_to_measure(tmp_path: Path) -> None:
    told = refused("plot", "fig18-a", "--backend", "sim", "--artifacts", tmp_path)
    assert "run 'bench figure fig18-a" in told


def test_a_measurement_is_found_by_backend_a_gpu_first(tmp_path: Path) -> None:
    def find(backend: str) -> str | None:
        found = kernel_results.find_measurement(tmp_path, "attention", backend=backend)
        return found and found["backend"]

    assert find("sim") is None
    keep(tmp_path, measured(1.0))
    assert [find(backend) for backend in ("sim", "cpu", "cuda")] == ["cpu", "cpu", None]
    keep(tmp_path, measured(1.0, backend="cuda"))
    assert [find(backend) for backend in ("sim", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("values", "status"), [((0.9, 1.1), Status.PASS), ((1.0, 1.27), Status.FAIL)]
)
def test_the_report_holds_the_largest_ratio_against_the_paper_and_names_the_device(
    tmp_path: Path, values: tuple[float, float], status: Status
) -> None:
    keep(tmp_path, measured(*values))
    report = build_report(Store(tmp_path, source="present"), Choice())
    row = report.verdicts.set_index("figure").loc["fig18-a"]
    assert (row["status"], row["ours"]) == (status, max(values))
    assert (row["basis"], row["backend"]) == ("measured", "cpu")
    assert row["devices"] == ("a cpu",)
    assert "fig18-a" not in report.pending


def test_without_a_measurement_the_report_says_how_to_get_one(tmp_path: Path) -> None:
    report = build_report(Store(tmp_path, source="present"), Choice())
    assert "fig18-a" not in set(report.verdicts["figure"])
    assert "bench figure fig18-a" in report.pending["fig18-a"]
    assert registry.FIGURES["fig18-a"].claims
