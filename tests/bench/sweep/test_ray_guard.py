"""What becomes of a command that Ray ends, with a package in Ray's place that does so."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
from processes import DEADLINE_S, marked, started, wait_until

ENDS = "import os; os._exit(1)"
FAILS = "raise ImportError('no such library')"
WAITS = "import os, time; open(os.environ['RAY_LOADED'], 'w').close(); time.sleep(1000)"


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the package waits; its path marks the processes."""
    path = tmp_path / "loaded"
    monkeypatch.setenv("RAY_LOADED", str(path))
    return path


def command(
    folder: Path, ray: str, monkeypatch: pytest.MonkeyPatch
) -> AbstractContextManager[Popen[str]]:
    (folder / "ray").mkdir()
    (folder / "ray" / "__init__.py").write_text(ray)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    words = ["figure", "fig13-13b-sharegpt", "--quick", "--no-plot", "--backend", "sim"]
    words += ["--artifacts", str(folder / "artifacts"), "--ray=local"]
    return started([sys.executable, "-m", "bench", *words])


def test_a_command_that_ray_ends_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command(tmp_path, ENDS, monkeypatch) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, err
    assert err.splitlines()[-1].startswith("Error: Ray has ended the command")
    assert "Traceback" not in out + err


def test_a_fault_stays_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with command(tmp_path, FAILS, monkeypatch) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "ImportError: no such library"


def test_ctrl_c_reaches_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: Path
) -> None:
    with command(tmp_path, WAITS, monkeypatch) as process:
        wait_until(loaded.exists, "the command to load Ray")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    assert "interrupted" in err


@pytest.mark.parametrize("victim", ["guard", "command"])
def test_neither_outlives_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: Path, victim: str
) -> None:
    with command(tmp_path, WAITS, monkeypatch) as process:
        wait_until(loaded.exists, "the command to load Ray")
        (below,) = set(marked(str(loaded))) - {process.pid}
        os.kill(process.pid if victim == "guard" else below, signal.SIGKILL)
        _, err = process.communicate(timeout=DEADLINE_S)
    if victim == "command":
        assert process.returncode == 2
        assert "killed by SIGKILL: to go on, run it again" in err
    wait_until(lambda: not marked(str(loaded)), "both to end")
