"""The engine compiled by mypyc: the same results as its sources, and never older ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from bench.point.spec import PointSpec
from engines import compiled

needs_build = pytest.mark.skipif(
    not compiled.is_fresh(), reason="the engine is not compiled here: make install"
)
LONG = {"max_batched_tokens": 8192}
# Every system, and what each policy does: preempting both ways, forking, sharing, padding.
POINTS = (
    {"system": "astra", "rate": 4.0},
    {"system": "astra", "rate": 2.0, "sampling": "n4", "kv_slots": 9000},
    {"system": "astra", "rate": 1.0, "sampling": "beam6", "workload": "alpaca", "kv_slots": 6000},
    {"system": "astra", "rate": 3.0, "preemption": "swap", "kv_slots": 7000, "block_size": 1},
    {
        "system": "astra",
        "rate": 9.0,
        "workload": "translation-1shot",
        "model": "llama-13b",
        "share_prefix": True,
    },
    {"system": "orca-oracle", "rate": 2.0},
    {"system": "orca-pow2", "rate": 2.0, "sampling": "beam4", **LONG},
    {"system": "orca-max", "rate": 1.0, "workload": "chat"},
    {"system": "ft", "rate": 1.0},
)
RUN = """
import json, sys
from bench.point.serve import run_point
from bench.point.spec import PointSpec
from engines import compiled
assert compiled.in_use() is (sys.argv[1] == "compiled"), sys.argv[1]
for line in sys.stdin:
    outcome = run_point(PointSpec(**json.loads(line)))
    for name in ("wall_s", "host_us_per_step"):
        del outcome.metrics[name]
    columns = {name: column.tobytes().hex() for name, column in outcome.requests.items()}
    print(repr(outcome.metrics), columns)
"""


def run(program: str, *words: str, top: Path = ROOT, text: str = "", **environment: str) -> str:
    """Run a program on the sources in `top`; returns what it prints, notices included."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("BENCH_STALE_TOLD",)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        input=text,
        env={**inherited, "PYTHONPATH": str(top), **environment},
        cwd=top,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_build
def test_results_are_equal_to_the_last_bit() -> None:
    points = "".join(json.dumps({"duration": 60.0, **point}) + "\n" for point in POINTS)
    found = run(RUN, "compiled", text=points)
    assert found == run(RUN, "plain", text=points, **{compiled.PURE: "1"})
    assert len(found.splitlines()) == len(POINTS)


@needs_build
def test_an_edited_source_runs_as_it_is_now(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "engines", tmp_path / "engines", ignore=lambda *_: ["__pycache__"])
    program = """
from engines import compiled
from engines.core import scheduler
print(compiled.in_use(), compiled.is_stale(), getattr(scheduler, "EDITED", "not edited"))
"""
    assert run(program, top=tmp_path) == "True False not edited\n"
    with (tmp_path / "engines" / "core" / "scheduler.py").open("a", encoding="utf-8") as file:
        file.write("\nEDITED = 'edited'\n")
    told = run(program, top=tmp_path)
    assert told.startswith("False True edited\n")
    assert told.count("make install") == 1


@needs_build
@pytest.mark.parametrize("room", compiled.ROOMS)
def test_a_build_depends_on_every_room(room: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "engines", tmp_path / "engines", ignore=lambda *_: ["__pycache__"])
    (tmp_path / "engines" / room / "new.py").write_text("", encoding="utf-8")
    program = "from engines import compiled; print(compiled.in_use())"
    assert run(program, top=tmp_path).startswith("False\n")


def test_every_module_is_one_of_the_rooms() -> None:
    for name in compiled.MODULES:
        assert name.partition(".")[0] in compiled.ROOMS
        assert (compiled.PACKAGE / f"{name.replace('.', '/')}.py").is_file()


def test_a_library_that_does_not_load_leaves_the_sources(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "engines", tmp_path / "engines", ignore=lambda *_: ["__pycache__"])
    shutil.rmtree(tmp_path / "engines" / "_compiled", ignore_errors=True)
    (tmp_path / "engines" / "_compiled" / compiled.key()).mkdir(parents=True)
    program = """
from engines import compiled
from engines.core.scheduler import Scheduler
print(compiled.in_use(), Scheduler.__name__)
"""
    assert run(program, top=tmp_path) == "False Scheduler\n"


def test_a_point_travels_between_processes() -> None:
    spec = PointSpec(system="astra", sampling="beam4")  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(spec)) == spec
