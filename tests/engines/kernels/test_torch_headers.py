"""One library for every torch that pyproject.toml admits: the headers of the oldest and the newest.

The newest is the installed one. The oldest's headers come from a folder that
BENCH_TEST_TORCH_HEADERS names (that of `torch/`), or once from PyPI into pytest's cache. Only
bindings.cpp includes torch's headers, and that for the host alone, so nothing else is compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from engines.kernels import build

ROOT = Path(__file__).parents[3]
# The wheel for macOS has the same headers as any other, and none is smaller (80 MB).
PLATFORM = "macosx_11_0_arm64"
SHA256 = {"2.11.0": "4b5866312ee6e52ea625cd211dcb97d6a2cdc1131a5f15cc0d87eec948f6dd34"}
HEADERS = ("headeronly/", "csrc/stable/", "csrc/inductor/aoti_torch/")


def admitted() -> tuple[str, str]:
    """The oldest and the newest torch that pyproject.toml admits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = (n for n in project["optional-dependencies"]["models"] if n.startswith("torch"))
    oldest, newest = re.fullmatch(r"torch>=([\d.]+),<=([\d.]+)", found).groups()
    return oldest, newest


def fetch(version: str, folder: Path) -> None:
    """Put the headers that the bindings need into `folder`, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"torch=={version} --hash=sha256:{SHA256[version]}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries", "1"]
        command += ["--timeout", "10", "--require-hashes", "--no-deps", "--only-binary=:all:"]
        command += ["--platform", PLATFORM, "--python-version", "3.12"]
        command += ["--dest", scratch, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = done.stderr.strip().splitlines()[-1]
            pytest.skip(f"no headers of torch {version} (BENCH_TEST_TORCH_HEADERS): {why}")
        (wheel,) = Path(scratch).glob("*.whl")
        prefixes = tuple(f"torch/include/torch/{part}" for part in HEADERS)
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(prefixes)]
            archive.extractall(scratch, names)
        if not folder.exists():  # nobody else was quicker
            Path(scratch, "torch").rename(folder)


@pytest.fixture(scope="session")
def oldest_torch(pytestconfig: pytest.Config) -> Path:
    given = os.environ.get("BENCH_TEST_TORCH_HEADERS")
    if given:
        return Path(given)
    version, cache = admitted()[0], pytestconfig.cache
    assert cache is not None
    folder = cache.mkdir("torch-headers") / version
    if not folder.exists():
        fetch(version, folder)
    return folder


@pytest.fixture(scope="session")
def newest_torch() -> Path:
    found = build.find_torch()
    if found is None:
        pytest.skip("torch is not installed")
    return found


def compile_bindings(device: str, torch: Path, *how: str) -> None:
    """Compile the bindings with the flags that `build` gives, but for optimising."""
    folder, compiler = build.source_folder(), build.find_compiler(device)
    if compiler is None:
        pytest.skip(
            "no compiler: nvcc brings the headers of CUDA" if device == "cuda" else "no g++"
        )
    assert folder is not None, "a checkout has csrc/"
    flags = [f for f in build._device_flags(device, build.ARCHITECTURES) if f != "-O3"]
    command = [compiler, *flags, "-isystem", str(torch / "include"), *how]
    command += ["-c", str(folder / "bindings.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", build.DEVICES)
def test_the_bindings_compile_with_the_oldest_headers(
    device: str, oldest_torch: Path, tmp_path: Path
) -> None:
    only = ["-fsyntax-only"]
    if device == "cuda":
        only = ["-Xcompiler=-fsyntax-only", "-o", str(tmp_path / "bindings.o")]
    compile_bindings(device, oldest_torch, *only)


def test_what_the_newest_headers_make_the_oldest_torch_can_load(
    newest_torch: Path, oldest_torch: Path, tmp_path: Path
) -> None:
    """Every function of torch that the CUDA library calls is declared in the oldest's headers."""
    target = tmp_path / "bindings.o"
    compile_bindings("cuda", newest_torch, "-o", str(target))
    listing = subprocess.run(["nm", "-u", target], capture_output=True, text=True, check=True)
    called = set(re.findall(r"\b((?:aoti_)?torch_\w+)", listing.stdout))
    assert len(called) > 20
    declared = "".join(path.read_text() for path in oldest_torch.rglob("shim.h"))
    assert {name for name in called if not re.search(rf"\b{name}\(", declared)} == set()


def test_one_place_says_which_torch_is_the_oldest_and_all_agree() -> None:
    oldest, newest = admitted()
    major, minor, _ = map(int, oldest.split("."))
    assert (major << 56) + (minor << 48) == build.TARGET_TORCH
    assert oldest in SHA256
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert f"torch {major}.{minor} to {newest.rpartition('.')[0]}" in text
    including = [
        path.name
        for path in (ROOT / "csrc").rglob("*.*")
        if re.search(r"#include [<\"](torch|checks|launch)", path.read_text())
    ]
    assert sorted(including) == ["bindings.cpp", "checks.h", "launch.h"]
