"""Compiles csrc/ into one library per device: `python -m engines.kernels.build --device cpu`.

A library's file name carries a hash of its sources and flags, so that a stale one is never
loaded. Only PyTorch's headers and `libtorch_cpu` are needed, for CUDA too: the stable ABI makes
one build serve every torch from 2.11 on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engines.core.errors import UserError, unknown_name
from engines.kernels import fatbinary

TARGET_TORCH = 0x020B000000000000  # 2.11, the oldest torch that a library loads into
DEVICES = ("cpu", "cuda")
ARCHITECTURES = ("sm_80", "sm_90")

_PACKAGE = Path(__file__).resolve().parent
_COMMON_FLAGS = ("-std=c++17", "-O3", f"-DTORCH_TARGET_VERSION={TARGET_TORCH:#x}")
_HOST_FLAGS = ("-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wno-psabi")
_INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        "-mprefer-vector-width=512",
    ),
}
_PER_INSTRUCTION_SET = "attend"


@dataclass(frozen=True)
class Unit:
    """One source file with its own flags, compiled into one object file."""

    source: Path
    object_name: str
    flags: tuple[str, ...] = ()


def source_folder() -> Path | None:
    """Return csrc/: beside the packages in a checkout, inside this one in an installed wheel."""
    for folder in (_PACKAGE.parent.parent / "csrc", _PACKAGE / "csrc"):
        if (folder / "bindings.cpp").is_file():
            return folder
    return None


def source_hash(device: str, folder: Path) -> str:
    """Return a hash of what a device's library is made from: sources, flags, kind of processor."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*"), *(folder / device).glob("*")]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    flags = (_COMMON_FLAGS, _HOST_FLAGS, _INSTRUCTION_SETS, platform.machine())
    digest.update(repr(flags).encode())
    return digest.hexdigest()[:12]


def library_folder() -> Path:
    """Return where libraries are kept: beside this file, so that wheels carry them."""
    return _PACKAGE / "lib"


def library_path(device: str, folder: Path, *, into: Path | None = None) -> Path:
    """Return the path of the library that the sources in `folder` make for a device."""
    return (into or library_folder()) / f"_{device}-{source_hash(device, folder)}.so"


def is_built(path: Path, device: str, architectures: Sequence[str]) -> bool:
    """Whether a device's library is there; for CUDA, with code for every architecture named."""
    if device == "cpu" or not path.exists():
        return path.exists()
    return {str(image) for image in fatbinary.list_images(path)} >= set(architectures)


def find_torch() -> Path | None:
    """Return the folder of the installed torch, without importing it.

    An isolated build environment hides site-packages from imports but not from sysconfig.
    """
    places = [*sys.path, sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    for place in places:
        folder = Path(place) / "torch"
        if (folder / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
            return folder
    return None


def find_compiler(device: str) -> str | None:
    """Return the compiler for a device's library, or None."""
    names = ("nvcc",) if device == "cuda" else ("g++", "c++", "clang++")
    return next((path for name in names if (path := shutil.which(name))), None)


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that a CPU library is compiled for; it chooses at run time."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return tuple(_INSTRUCTION_SETS) if x86 else ("plain",)


def compile_units(device: str, folder: Path, sets: Sequence[str]) -> list[Unit]:
    """Return what a device's library is compiled from."""
    units = [Unit(folder / "bindings.cpp", "bindings.o")]
    suffix = ".cu" if device == "cuda" else ".cpp"
    for source in sorted((folder / device).glob(f"*{suffix}")):
        if device == "cpu" and source.stem == _PER_INSTRUCTION_SET:
            for name in sets:
                flags = (*_INSTRUCTION_SETS[name], f"-DASTRA_INSTRUCTION_SET={name}")
                units.append(Unit(source, f"{source.stem}_{name}.o", flags))
        else:
            defines = tuple(f"-DASTRA_WITH_{name}" for name in sets if device == "cpu")
            units.append(Unit(source, f"{source.stem}.o", defines))
    return units


def _device_flags(device: str, architectures: Sequence[str]) -> list[str]:
    if device == "cpu":
        return [*_COMMON_FLAGS, *_HOST_FLAGS]
    host = f"-Xcompiler={','.join(_HOST_FLAGS)}"
    return [*_COMMON_FLAGS, "-DUSE_CUDA", host, *_code_flags(architectures)]


def _code_flags(architectures: Sequence[str]) -> list[str]:
    """Ask for each architecture's machine code, and the newest's PTX for devices yet to come."""
    numbers = sorted(int(name.removeprefix("sm_")) for name in architectures)
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [*flags, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


def _link_flags(device: str, torch: Path, workspace: Path, compiler: str) -> list[str]:
    if device == "cpu":
        return [f"-L{torch / 'lib'}", "-ltorch_cpu"]
    # The CUDA half of torch need not be here: a stub of its name makes the loader look there.
    stub = workspace / "libtorch_cuda.so"
    empty = workspace / "empty.cpp"
    empty.write_text("")
    _call([compiler, "-shared", "-Xlinker=-soname,libtorch_cuda.so", str(empty), "-o", str(stub)])
    libraries = [f"-L{workspace}", "-ltorch_cuda", f"-L{torch / 'lib'}", "-ltorch_cpu"]
    return ["-cudart=static", "-Xlinker=--no-as-needed,--exclude-libs=ALL", *libraries]


def _compile_all(units: Sequence[Unit], compiler: Sequence[str], workspace: Path) -> None:
    commands = [
        [*compiler, *unit.flags, "-c", str(unit.source), "-o", str(workspace / unit.object_name)]
        for unit in units
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(_call, commands))


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise UserError(f"compiling the kernels failed: {errors[0].strip()} ({' '.join(command)})")


def build(
    device: str,
    *,
    architectures: Sequence[str] = ARCHITECTURES,
    sets: Sequence[str] | None = None,
    into: Path | None = None,
) -> Path:
    """Compile a device's library and return its path; one that is there already is kept
    (see `is_built`).

    architectures: for CUDA. sets: for a CPU, names of instruction sets, "plain" among them
    (default: all that this kind of processor may have). into: another folder to build in.
    Raises UserError where sources, torch's headers or the compiler are missing, or compiling
    fails.
    """
    folder, torch, compiler = source_folder(), find_torch(), find_compiler(device)
    if folder is None:
        raise UserError("the kernels' sources (csrc/) are not here: install from a checkout")
    if torch is None:
        raise UserError("torch is not installed: install it first (torch>=2.11)")
    if compiler is None:
        name = "nvcc (the CUDA toolkit)" if device == "cuda" else "a C++ compiler (g++ or clang++)"
        raise UserError(f"{name} was not found on PATH: install it to compile the {device} kernels")
    target = library_path(device, folder, into=into)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_built(target, device, architectures):
        return target
    units = compile_units(device, folder, sets or instruction_sets())
    flags = [*_device_flags(device, architectures), "-isystem", str(torch / "include")]
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        workspace = Path(name)
        _compile_all(units, [compiler, *flags], workspace)
        objects = [str(path) for path in sorted(workspace.glob("*.o"))]
        library = workspace / "library.so"
        link = _link_flags(device, torch, workspace, compiler)
        _call([compiler, "-shared", *flags, *objects, *link, "-o", str(library)])
        library.replace(target)  # atomic: a process that builds at the same time sees a whole file
    for stale in target.parent.glob(f"_{device}-*.so"):
        if stale != target:
            stale.unlink(missing_ok=True)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Build from the command line; exit status 2 and one line where that is not possible."""
    parser = argparse.ArgumentParser(description="Compile the kernels of csrc/ for a device.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--arch",
        default=",".join(ARCHITECTURES),
        help="CUDA architectures, comma-separated (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.device not in DEVICES:
            raise unknown_name("device", options.device, DEVICES)
        for name in options.arch.split(","):
            if not re.fullmatch(r"sm_\d+", name):
                raise UserError(f"architecture must look like sm_80, got '{name}'")
        path = build(options.device, architectures=options.arch.split(","))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
