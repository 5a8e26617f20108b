"""`bench clean`: what runs have made goes, everything else stays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import driver_fakes as fakes
import pytest
from command_line import bench, passed, refused
from made_up_kernels import measured

from bench.point.spec import PointSpec
from bench.results.measurements import measured_directory, write_measurement
from bench.results.store import Store

SPECS = [PointSpec(system="astra", seed=seed) for seed in range(3)]
OTHERS = (
    *("results/notes.txt", "results/sim/notes/point.json", "figures/mine.pdf", "notes/fig2.pdf"),
    *("data/sharegpt.csv.gz", "reference/sim/points.csv", "report/own.html"),
    "kernels/x/kernels.json",
)  # fmt: skip


clean = partial(passed, "clean", "--yes", "--artifacts")


def files_of(root: Path) -> set[str]:
    return {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()}


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Everything that runs make, with files of somebody else beside it."""
    root = tmp_path / "a folder"
    store = Store(root, source="s")
    for spec in SPECS:
        store.write(spec, fakes.outcome(spec), provenance=fakes.provenance(spec, "s"))
    (store.directory(SPECS[1]) / "point.json").write_text("{")  # damaged
    (store.directory(SPECS[2]) / "point.json").unlink()  # interrupted
    store.write_failure(SPECS[2], error="no luck")
    write_measurement(measured_directory(root, "attention", "cpu"), measured(1.0))
    for name in (
        *("figures/fig2.pdf", "figures/short/fig12-13b.png", "figures/.fig2.png.123"),
        *("report/index.html", "report/full/report.json", "scale-cpu.json", *OTHERS),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def test_what_runs_made_goes_and_nothing_else(artifacts: Path) -> None:
    done = clean(artifacts)
    assert files_of(artifacts) == set(OTHERS)
    assert not (artifacts / "results" / "sim" / Store(artifacts).directory(SPECS[0]).name).exists()
    assert "a folder/results/sim: 9 files" in done.stdout
    again = clean(artifacts)
    assert again.stdout == ""
    assert "nothing to remove" in again.stderr


def test_nothing_goes_without_a_yes(artifacts: Path) -> None:
    before = files_of(artifacts)
    done = bench("clean", "--artifacts", artifacts)
    assert done.exit_code == 2
    assert "give --yes" in done.stderr
    assert files_of(artifacts) == before


@pytest.mark.parametrize("name", ["point.json", "mine.txt"])
def test_a_folder_of_points_with_a_file_that_is_not_ours_stays(artifacts: Path, name: str) -> None:
    folder = Store(artifacts).directory(SPECS[0])
    (folder / name).write_text('{"spec": {"another": "point"}}')
    before = files_of(folder)
    clean(artifacts)
    assert files_of(folder) == before


def test_links_are_not_followed(artifacts: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (artifacts / "results").rename(elsewhere)
    (artifacts / "results").symlink_to(elsewhere)
    before = files_of(elsewhere)
    clean(artifacts)
    assert files_of(elsewhere) == before


def test_a_command_at_work_is_left_alone(artifacts: Path) -> None:
    before = files_of(artifacts)
    with Store(artifacts).lock(SPECS[0]):
        done = bench("clean", "--yes", "--artifacts", artifacts)
    assert done.exit_code == 2
    assert "a command is running points there" in done.stderr
    assert files_of(artifacts) == before


@pytest.mark.parametrize("name", ["/", "~", "", "precious", "precious/../precious"])
def test_folders_that_are_not_ours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for folder in ("precious", "home/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    before = files_of(tmp_path)
    refused("clean", "--yes", "--artifacts", name.replace("~", str(tmp_path / "home")))
    assert files_of(tmp_path) == before


def test_what_is_not_there_needs_no_cleaning(tmp_path: Path) -> None:
    clean(tmp_path / "none")
