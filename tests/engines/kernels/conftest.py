"""The kernels under test: a device's compiled library, or CUDA's on an emulated device."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engines.core.errors import UserError
from engines.kernels import build

if TYPE_CHECKING:
    from kernel_cases import Target

EMULATOR = Path(__file__).parent / "emulator"


@pytest.fixture(autouse=True)
def _seed() -> None:
    if build.find_torch() is not None:
        import torch

        torch.manual_seed(0)


@pytest.fixture(scope="session")
def cpu_target() -> Target:
    from kernel_cases import Target

    from engines.kernels import library

    kernels = library.load_kernels("cpu")
    if not kernels.compiled:
        pytest.skip("no compiled CPU kernels (no C++ compiler?)")
    return Target(kernels, "cpu")


@pytest.fixture(scope="session")
def cuda_target() -> Target:
    import torch
    from kernel_cases import Target

    from engines.kernels import library

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    kernels = library.load_kernels("cuda")
    if not kernels.compiled:
        pytest.skip("the CUDA kernels are not compiled: python -m engines.kernels.build")
    return Target(kernels, "cuda")


@pytest.fixture(scope="session")
def emulated_target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The CUDA sources compiled for the host, every thread a fiber (see emulator/device.h)."""
    from kernel_cases import Target

    from engines.kernels import library

    nvcc, compiler, pytorch = (
        build.find_compiler("cuda"),
        build.find_compiler("cpu"),
        build.find_torch(),
    )
    if nvcc is None or compiler is None or pytorch is None:
        pytest.skip("emulating the CUDA kernels needs the CUDA toolkit's headers and a compiler")
    try:
        path = _build_emulated(tmp_path_factory.mktemp("emulated"), nvcc, compiler, pytorch)
    except UserError as error:
        pytest.fail(str(error))
    return Target(library.load_library(path, "astra_emulated"), "cpu")


def _build_emulated(folder: Path, nvcc: str, compiler: str, pytorch: Path) -> Path:
    sources = build.source_folder()
    assert sources is not None, "a checkout has csrc/"
    flags = ["-std=c++17", "-O1", "-fPIC", "-w", "-fvisibility=hidden", "-DUSE_CUDA"]
    flags += [f"-DTORCH_TARGET_VERSION={build.TARGET_TORCH:#x}", "-DASTRA_NAMESPACE=astra_emulated"]
    flags += ["-DASTRA_DISPATCH_KEY=CPU", f"-I{sources}", f"-I{EMULATOR}"]
    flags += ["-isystem", str(pytorch / "include"), "-isystem", str(_cuda_headers(nvcc))]
    kernel = ["-x", "c++", "-include", str(EMULATOR / "device.h")]
    units: list[tuple[Path, list[str]]] = [
        (EMULATOR / "device.cpp", []),
        (sources / "bindings.cpp", []),
        *((path, kernel) for path in sorted((sources / "cuda").glob("*.cu"))),
    ]
    objects = [str(folder / f"{source.stem}.o") for source, _ in units]
    commands = [
        [compiler, *flags, *own, "-c", str(source), "-o", target]
        for (source, own), target in zip(units, objects, strict=True)
    ]
    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(build._call, commands))
    path = folder / "_emulated.so"
    link = ["-shared", "-Wl,-Bsymbolic", *objects, f"-L{pytorch / 'lib'}", "-ltorch_cpu"]
    build._call([compiler, *link, "-o", str(path)])
    return path


def _cuda_headers(nvcc: str) -> Path:
    """Return nvcc's own include folder, which it prints when asked what it would do."""
    done = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if "INCLUDES=" in line]
    return Path(lines[0].split('"-I')[1].split('"')[0]).resolve()
