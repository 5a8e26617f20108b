from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import driver_fakes as fakes
import pytest
from places import ROOT

from bench.point.spec import PointSpec
from bench.results.store import State, Store

SPEC = PointSpec(system="astra", window=(10.0, 20.0))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, source="these sources")


def put(store: Store, spec: PointSpec = SPEC) -> Path:
    provenance = fakes.provenance(spec, store.source)
    return store.write(spec, fakes.outcome(spec), provenance=provenance)


def test_a_written_point_is_complete_and_reads_back(store: Store) -> None:
    assert store.state(SPEC) is State.MISSING
    directory = put(store)
    assert sorted(p.name for p in directory.iterdir()) == [
        "metrics.json",
        "point.json",
        "requests.parquet",
    ]
    assert directory == store.root / "results" / "sim" / f"{SPEC.slug}-{SPEC.digest}"
    assert store.state(SPEC) is State.COMPLETE
    expected = fakes.outcome(SPEC)
    frame = store.load_requests(SPEC)
    for name, column in expected.requests.items():
        assert frame[name].tolist() == column.tolist()
    record = store.load_record(SPEC)
    assert PointSpec.from_dict(record["spec"]) == SPEC
    assert record["metrics"]["wall_s"] > 0
    assert "wall_s" not in json.loads((directory / "metrics.json").read_text())


def test_the_same_point_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (put(Store(tmp_path / name, source="s")) for name in ("a", "b"))
    for name in ("metrics.json", "requests.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (first / "point.json").read_bytes() != (second / "point.json").read_bytes()


def test_a_directory_without_point_json_is_missing(store: Store) -> None:
    (put(store) / "point.json").unlink()
    assert store.state(SPEC) is State.MISSING


def test_results_of_other_sources_are_stale(store: Store) -> None:
    put(store)
    later = Store(store.root, source="other sources")
    assert later.state(SPEC) is State.STALE
    assert later.load([SPEC])["stale"].tolist() == [True]
    assert store.load([SPEC])["stale"].tolist() == [False]


def test_load_gives_one_row_per_sound_point_in_order(store: Store) -> None:
    specs = [replace(SPEC, seed=seed) for seed in (3, 1, 2)]
    for spec in (specs[0], specs[2]):
        put(store, spec)
    frame = store.load([*specs, specs[0]])
    assert frame["seed"].tolist() == [3, 2]
    assert frame["digest"].tolist() == [specs[0].digest, specs[2].digest]
    assert frame["kv_pct_reservation"].tolist() == [1.5, 1.5]
    assert frame["mean_normalized_latency_s"].tolist() == [
        fakes.outcome(spec).metrics["mean_normalized_latency_s"] for spec in (specs[0], specs[2])
    ]
    assert all(math.isnan(value) for value in frame["mean_tpot_s"])
    assert store.load([specs[1]]).empty
    assert "rate" in store.load([]).columns


def test_a_failure_is_kept_until_the_point_succeeds(store: Store) -> None:
    store.write_failure(SPEC, error="no luck", traceback="line 1\nline 2")
    path = store.failure_path(SPEC)
    assert path.name == f"{SPEC.slug}-{SPEC.digest}.failure.json"
    assert json.loads(path.read_text())["traceback"] == ["line 1", "line 2"]
    assert store.state(SPEC) is State.MISSING
    put(store)
    assert not path.exists()


def test_prepare_clears_what_dead_runs_left_and_spares_what_is_held(store: Store) -> None:
    dead, held = (store.directory(replace(SPEC, seed=seed)) / ".partial" for seed in (1, 2))
    for partial in (dead, held):
        partial.mkdir(parents=True)
        (partial / "requests.parquet").touch()
    directory = put(store)
    with store.lock(replace(SPEC, seed=2)) as taken:
        assert taken
        store.prepare()
        assert not dead.parent.exists()
        assert held.exists()
        with store.lock(replace(SPEC, seed=2), wait=False) as again:
            assert not again
    store.prepare()
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


FULL_DISK = """
import resource, sys
import driver_fakes as fakes
from bench.results.store import Store
from engines.core.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
spec = fakes.specs(1)[0]
origin = fakes.provenance(spec, "s")
try:
    Store(sys.argv[1], source="s").write(spec, fakes.large(spec), provenance=origin)
except UserError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_gives_one_line_and_leaves_no_half(tmp_path: Path, existing: bool) -> None:
    store = Store(tmp_path, source="s")
    spec = fakes.specs(1)[0]
    if existing:
        put(store, spec)
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    helpers = ROOT / "tests" / "helpers"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=helpers)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("no space left to write")
    assert done.stdout.count("\n") == 1
    assert store.state(spec) is (State.COMPLETE if existing else State.MISSING)
    assert store.directory(spec).exists() is existing
    assert not list(tmp_path.rglob(".partial"))
