from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import driver_fakes as fakes
import pytest
from driver_fakes import Recorder
from processes import DEADLINE_S, alive, started, wait_until

from bench.point.spec import PointSpec
from bench.results.store import State, Store
from bench.sweep.local import LocalProcesses
from bench.sweep.plan import make_plan, weight
from bench.sweep.runner import run_points
from engines.core.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    directory = tmp_path / "marks"
    directory.mkdir()
    return directory


def runs_of(marks: Path, seed: int) -> int:
    return len(list(marks.glob(f"run-{seed}-*")))


def workers(marks: Path) -> list[int]:
    """The processes that have left marks."""
    return [int(path.name.rsplit("-", 1)[1]) for path in marks.iterdir()]


def command(store: Store, run_name: str, count: int, marks: Path) -> list[str]:
    words = [str(Path(fakes.__file__)), str(store.root), run_name, str(count), str(marks)]
    return [sys.executable, *words]


def test_runs_every_point_once_and_skips_complete_ones(store: Store) -> None:
    specs = fakes.specs(4)
    display = Recorder()
    first = run_points(
        store,
        [*specs, specs[0]],
        place=LocalProcesses(jobs=2, run=fakes.succeed),
        display=display,
    )
    assert set(first.done) == set(specs)
    assert len(first.done) == 4
    assert display.shares == [0.5] * 4
    assert display.errors == [""] * 4
    assert first.exit_status == 0
    second = run_points(store, specs, place=LocalProcesses(run=fakes.fail))
    assert second.skipped == tuple(specs)
    assert not second.done
    third = run_points(store, specs[:1], place=LocalProcesses(run=fakes.succeed), force=True)
    assert third.done == (specs[0],)


def test_heavier_points_start_first(store: Store) -> None:
    specs = [PointSpec(system="astra", rate=rate) for rate in (1.0, 4.0, 2.0)]
    specs.append(PointSpec(system="astra", rate=1.0, sampling="beam6"))
    display = Recorder()
    run_points(
        store,
        specs,
        place=LocalProcesses(jobs=1, run=fakes.succeed),
        display=display,
    )
    weights = [weight(spec) for spec in display.begun]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == weight(specs[3])


@pytest.mark.parametrize(
    ("run", "message", "runs", "has_traceback"),
    [
        (fakes.fail, "ValueError: broken in two lines", None, True),
        (fakes.refuse, "this model does not fit", 1, False),
        (fakes.crash, "its process was killed by SIGSEGV", 2, False),
    ],
)
def test_a_failing_point_costs_itself_alone(
    store: Store, marks: Path, run: Any, message: str, runs: int | None, has_traceback: bool
) -> None:
    specs = fakes.specs(9, marks)
    trouble = specs[fakes.TROUBLE]
    summary = run_points(store, specs, place=LocalProcesses(jobs=2, run=run))
    assert [(failure.spec, failure.error) for failure in summary.failed] == [(trouble, message)]
    assert set(summary.done) == set(specs) - {trouble}
    assert summary.exit_status == 1
    assert store.state(trouble) is State.MISSING
    assert runs is None or runs_of(marks, fakes.TROUBLE) == runs
    record = json.loads(store.failure_path(trouble).read_text())
    assert record["error"] == message
    assert any("raise ValueError" in line for line in record["traceback"]) is has_traceback
    again = run_points(store, specs, place=LocalProcesses(run=fakes.succeed))
    assert again.done == (trouble,)
    assert not store.failure_path(trouble).exists()


def test_a_killed_worker_is_tried_once_more(store: Store, marks: Path) -> None:
    display = Recorder()
    summary = run_points(
        store, fakes.specs(2, marks), place=LocalProcesses(run=fakes.crash_once), display=display
    )
    assert len(summary.done) == 2
    assert summary.exit_status == 0
    assert runs_of(marks, 0) == 2
    assert any("SIGKILL" in note and "retrying once" in note for note in display.notes)


def test_a_point_that_lost_a_process_of_its_engine_is_tried_once_more(
    store: Store, marks: Path
) -> None:
    display = Recorder()
    place = LocalProcesses(run=fakes.lose_a_worker)
    summary = run_points(store, fakes.specs(1, marks), place=place, display=display)
    assert [failure.error for failure in summary.failed] == ["rank 1 is gone"]
    assert runs_of(marks, 0) == 2
    assert any("rank 1 is gone; retrying once" in note for note in display.notes)


def test_corrupt_results_are_named_and_run_again(store: Store) -> None:
    specs = fakes.specs(2)
    run_points(store, specs, place=LocalProcesses(run=fakes.succeed))
    (store.directory(specs[0]) / "requests.parquet").write_bytes(b"PAR1")
    display = Recorder()
    summary = run_points(store, specs, place=LocalProcesses(run=fakes.succeed), display=display)
    assert summary.done == (specs[0],)
    assert store.state(specs[0]) is State.COMPLETE
    assert any(specs[0].digest in note and "checksum" in note for note in display.notes)


def test_stale_simulations_run_again_and_stale_measurements_are_kept(store: Store) -> None:
    simulated = PointSpec(system="astra")
    measured = replace(simulated, backend="cpu")
    run_points(store, [simulated, measured], place=LocalProcesses(run=fakes.succeed))
    later = Store(store.root, source="other sources")
    plan = make_plan(later, [simulated, measured])
    assert plan.run == (simulated,)
    assert plan.kept == (measured,)
    assert any("--force" in note for note in plan.notes)
    assert make_plan(later, [simulated, measured], force=True).run == (simulated, measured)
    summary = run_points(later, [simulated, measured], place=LocalProcesses(run=fakes.succeed))
    assert summary.done == (simulated,)
    assert later.state(simulated) is State.COMPLETE


def test_an_unwritable_place_is_refused_before_anything_runs(tmp_path: Path, marks: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match="is not a directory"):
        run_points(
            Store(blocked / "artifacts"),
            fakes.specs(1, marks),
            place=LocalProcesses(run=fakes.count_runs),
        )
    assert runs_of(marks, 0) == 0


def test_ctrl_c_ends_workers_and_keeps_what_is_complete(store: Store, marks: Path) -> None:
    specs = fakes.specs(6, marks)
    complete = [store.directory(spec) / "point.json" for spec in specs[:2]]
    with started(command(store, "hang", 6, marks)) as process:
        wait_until(
            lambda: len(list(marks.iterdir())) >= 5 and all(p.exists() for p in complete),
            "three workers that hang and two points that are complete",
        )
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes get it
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130, err
        wait_until(lambda: not any(map(alive, workers(marks))), "workers to end")
    told = json.loads(out)
    assert sorted(told["done"]) == [0, 1]
    assert told["unfinished"] == [2, 3, 4, 5]
    assert err == ""
    assert [store.state(spec) for spec in specs[:3]] == [
        State.COMPLETE,
        State.COMPLETE,
        State.MISSING,
    ]


def test_killing_the_runner_ends_its_workers_and_loses_only_points_in_flight(
    store: Store, marks: Path
) -> None:
    specs = fakes.specs(5, marks)
    complete = [store.directory(spec) / "point.json" for spec in specs[:2]]
    with started(command(store, "hang", 5, marks)) as process:
        wait_until(
            lambda: len(list(marks.iterdir())) == 5 and all(p.exists() for p in complete),
            "three workers that hang",
        )
        process.kill()
        process.communicate(timeout=DEADLINE_S)
        wait_until(lambda: not any(map(alive, workers(marks))), "workers to end")
    summary = run_points(store, specs, place=LocalProcesses(run=fakes.succeed))
    assert set(summary.skipped) == set(specs[:2])
    assert set(summary.done) == set(specs[2:])
    results = store.root / "results" / "sim"
    assert sorted(p.name for p in results.iterdir()) == sorted(
        store.directory(spec).name for spec in specs
    )


def test_two_runs_over_the_same_artifacts_share_the_work(store: Store, marks: Path) -> None:
    words = command(store, "count_runs", 12, marks)
    told = []
    with started(words) as one, started(words) as other:
        for process in (one, other):
            out, err = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, err
            told.append(json.loads(out))
    assert sorted(told[0]["done"] + told[1]["done"]) == list(range(12))
    for each in told:
        assert sorted(each["done"] + each["skipped"]) == list(range(12))
    specs = fakes.specs(12, marks)
    assert [store.state(spec) for spec in specs] == [State.COMPLETE] * 12
    assert [runs_of(marks, spec.seed) for spec in specs] == [1] * 12


LIMITED = """
import resource, sys
import driver_fakes as fakes
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
if __name__ == "__main__":
    fakes.main(*sys.argv[1:])
"""


def test_a_full_disk_ends_the_run_with_one_failure(
    store: Store, marks: Path, tmp_path: Path
) -> None:
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)
    words = [sys.executable, str(script), str(store.root), "large_second", "40", str(marks)]
    path = os.pathsep.join([str(Path(fakes.__file__).parent), str(Path(__file__).parents[3])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["done"] == [0]
    (error,) = told["failed"].values()
    assert error.startswith("no space left")
    assert len(told["unfinished"]) == 38
    assert not list(store.root.rglob(".partial"))
    assert not list(store.root.rglob(".*.lock"))
