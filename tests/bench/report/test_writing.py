"""A full disk or a home that is not there costs no page, and is told in one line or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from capacity_fakes import fill

from bench.results.store import Store

FULL_DISK = """
import resource, sys
from bench.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
main(sys.argv[1:])
"""


def bench(program: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["report", "plot fig2"])
def test_a_full_disk_keeps_the_older_files(tmp_path: Path, command: str) -> None:
    fill(Store(tmp_path), "fig2")
    words = [*command.split(), "--artifacts", str(tmp_path), "--backend", "sim"]
    assert bench(["-m", "bench", *words]).returncode == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    done = bench(["-c", FULL_DISK, *words])
    assert done.returncode == 2
    assert done.stderr.startswith("Error: no space left to write")
    assert done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before


def test_figures_without_a_home_to_write_to(tmp_path: Path) -> None:
    fill(Store(tmp_path), "fig2")
    (tmp_path / "file").touch()
    words = ["-m", "bench", "plot", "fig2", "--artifacts", str(tmp_path), "--backend", "sim"]
    done = bench(words, HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.glob("*matplotlib*"))
