"""The images' Dockerfiles and lock files: renewed, hashed, pinned and lint-free."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bench.docker.images import CPU_BASE
from tools.lock import Lock, dockerfiles, locks

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted(ROOT.glob("Dockerfile.*"))


def test_dockerfiles_are_what_the_template_makes() -> None:
    made = dockerfiles()
    assert sorted(made) == DOCKERFILES
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make lock`"
        assert "{%" not in text


@pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.name)
def test_locks_are_made_from_the_present_requirements(lock: Lock) -> None:
    assert lock.is_current, "run `make lock`"
    found = lock.pins
    for text in lock.requirements:
        wanted = Requirement(text)
        assert wanted.specifier.contains(found[wanted.name.lower()]), f"{text}: run `make lock`"


@pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.name)
def test_every_locked_package_has_hashes(lock: Lock) -> None:
    text = lock.path.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.M))
    assert len(entries) == len(lock.pins)
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.name)
def test_the_bill_of_materials_names_what_is_locked(lock: Lock) -> None:
    bill = json.loads(lock.sbom.read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "astra-artifact",
    )
    found = {part["name"]: part["version"] for part in bill["components"]}
    assert found == lock.pins, "run `make lock`"


def test_a_changed_requirement_makes_a_lock_stale() -> None:
    lock = locks()[0]
    assert not Lock(lock.name, lock.python, (*lock.requirements, "new>=1")).is_current
    assert not Lock(lock.name, "3.13", lock.requirements).is_current


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_bases_are_pinned_and_nothing_stands_before_the_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    outside = [base for base in bases if "/" in base]
    assert len(outside) == 2
    assert all(re.search(r"@sha256:[0-9a-f]{64}\}+$", base) for base in outside)
    assert text.endswith('ENTRYPOINT []\nCMD ["bench", "--help"]\n')
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert re.search(r"@sha256:[0-9a-f]{64}$", CPU_BASE)


def put(program: Path, script: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_base_whose_python_is_too_old_gets_one_that_finds_its_modules(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile.ft").read_text(encoding="utf-8")
    step = re.search(r"^RUN (mkdir -p /opt/python .*?fi)$", text, re.M | re.S)
    venv = re.search(r'^RUN PATH="/opt/python/(\S+):\$\{PATH\}" && python3 -m venv', text, re.M)
    assert step is not None
    assert venv is not None
    put(tmp_path / "bin" / "python3", 'test "$1" != -c')
    put(
        tmp_path / "bin" / "uv",
        f"cd {tmp_path}/python/all\n"
        "mkdir -p cpython-3.12.11-linux/bin cpython-3.12.11-linux/lib\n"
        "ln -s cpython-3.12.11-linux cpython-3.12-linux",
    )
    (tmp_path / "python" / "all").mkdir(parents=True)
    script = step[1].replace("/opt/python", f"{tmp_path}/python")
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PIP_CERT": ""}
    done = subprocess.run(
        ["sh", "-euc", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "python" / venv[1]  # of its programs, as the next step names it
    assert folder.is_dir()
    assert folder.with_name("lib").is_dir()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_free_of_lint(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed: make install-test")
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["containers/ft_library.sh", "containers/ft_worker.sh",
                                  "tools/ci_docker.sh", "tools/install.sh"])  # fmt: skip
def test_scripts_are_shell(name: str) -> None:
    done = subprocess.run(["sh", "-n", ROOT / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_kernels_are_compiled_with_the_files_that_are_copied_for_it(
    path: Path, tmp_path: Path
) -> None:
    """The layer is kept while those files are as they were, so it names them one by one."""
    stage = path.read_text(encoding="utf-8").partition("AS kernels\n")[2].partition("\nFROM")[0]
    for line in re.findall(r"^COPY (.*)$", stage.replace("\\\n", ""), re.M):
        *names, folder = line.split()
        for name in names:
            if (ROOT / name).is_file():
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tmp_path / folder)
    command = [sys.executable, "-S", "-m", "engines.kernels.build", "--help"]  # -S: not installed
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
