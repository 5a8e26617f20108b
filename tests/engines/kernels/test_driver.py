"""What is said where PyTorch has no CUDA device: the driver that was found, and what is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.devices import doctor
from bench.docker.checks import Level
from engines.core.errors import UserError
from engines.kernels import driver

torch = pytest.importorskip("torch")

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC 13"
SHOWN = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:17:46 UTC 2025"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel module's file, absent at first; no nvidia-smi, and torch built for CUDA 13.0."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(driver, "_KERNEL_MODULE", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "__version__", "2.13.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return tmp_path / "version"


def put_nvidia_smi(folder: Path, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    ("text", "version"), [(CLOSED, "535.104.05"), (OPEN, "580.95.05"), ("", None)]
)
def test_the_driver_is_found_with_and_without_nvidia_smi(
    module: Path, text: str, version: str | None
) -> None:
    assert driver.find_driver() is None
    module.write_text(text)
    assert driver.find_driver() == version
    put_nvidia_smi(module.parent, "echo NVIDIA-SMI has failed; exit 9")
    assert driver.find_driver() == version
    put_nvidia_smi(module.parent, "echo 570.86.15; echo 570.86.15")
    assert driver.find_driver() == "570.86.15"


@pytest.mark.parametrize(
    ("cuda", "found", "needed"),
    [
        ("13.0", "535.104.05", "580.65"),
        ("13.0", "580.64", "580.65"),
        ("13.2", "580.65.06", None),
        ("12.8", "535.104.05", None),
        ("12.8", "520.61", "525.60"),
        ("14.0", "535.104.05", None),  # not known
    ],
)
def test_a_driver_serves_every_minor_version_of_a_cuda(
    cuda: str, found: str, needed: str | None
) -> None:
    assert driver.least_driver(cuda, found) == needed


@pytest.mark.parametrize(
    "case",
    [
        (None, "", "no NVIDIA driver found: use a machine with a GPU, --backend cpu or sim"),
        (None, OPEN, "PyTorch 2.13.0 is built without CUDA: pip install --force-reinstall torch=="),
        ("13.0", CLOSED, "driver 535.104.05 is too old for CUDA 13.0 of PyTorch 2.13.0: install "
         "driver 580.65 or newer, or a PyTorch built for an older CUDA"),
        ("13.0", SHOWN, "driver 580.65.06 serves CUDA 13.0 of PyTorch 2.13.0, but shows it no GPU"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "words",
    [
        "run --system astra --backend cuda --model opt-125m --duration 1 --quiet",
        "kernels --device cuda",
        "figure fig12-13b --quick --backend cuda --runner local --artifacts out",
        "gpu-check --out out",
    ],
)
def test_commands_say_which_driver_is_there_and_which_is_needed(
    module: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    case: tuple[str | None, str, str],
) -> None:
    from benchmarks import gpu_check

    cuda, text, said = case
    module.write_text(text)
    monkeypatch.chdir(module.parent)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    command, *options = words.split()
    if command == "gpu-check":
        status, errors = gpu_check.main(options), capsys.readouterr().err
    else:
        result = CliRunner().invoke(main, [command, *options])
        status, errors = result.exit_code, result.stderr
    line = errors.splitlines()[-1]
    assert (status, line.lower().startswith("error: no cuda device here: ")) == (2, True), errors
    assert said in line
    assert not Path("out").exists()


def test_auto_says_that_it_simulates_in_spite_of_a_driver(module: Path) -> None:
    words = ["run", "--system", "astra", "--duration", "5", "--quiet"]
    without = CliRunner().invoke(main, words).stderr
    assert without.startswith("backend sim: no GPU for PyTorch here: simulating")
    module.write_text(CLOSED)
    lines = CliRunner().invoke(main, words).stderr
    assert lines.startswith("backend sim: PyTorch sees no GPU, though a driver is here (bench doc")


def test_doctor_names_the_driver_that_pytorch_cannot_use(module: Path) -> None:
    assert doctor.check_torch("2.13.0").found == "2.13.0 (no NVIDIA driver: models run on the CPU)"
    module.write_text(CLOSED)
    found = doctor.check_torch("2.13.0")
    assert (found.level, "driver 535.104.05 is too old" in found.found) == (Level.WARN, True)
    assert found.remedy.startswith("install driver 580.65 or newer")
    assert doctor.check_torch(None).level is Level.OK


def test_a_gpu_that_pytorch_sees_is_fine(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.write_text(OPEN)
    with pytest.raises(UserError):
        driver.require_cuda()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver.require_cuda()
    assert doctor.check_torch("2.13.0").found == "2.13.0 sees the GPU"
