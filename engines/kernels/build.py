"""Compiles csrc/ into one library per device: `python -m engines.kernels.build --device cpu`.

A library's file name carries a hash of its sources and flags, so that a stale one is never
loaded, and a CUDA library's also the architectures that it holds code for. Only PyTorch's headers
and `libtorch_cpu` are needed, for CUDA too: the stable ABI makes one build serve every torch from
2.11 on.
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
from pathlib import Path

from engines.core.errors import UserError, unknown_name

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
_PER_INSTRUCTION_SET = ("attend", "rows")
_CUDA_FOLDER = "/usr/local/cuda"


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
    """Return the library of the sources in `folder`: the one that is there, whatever architectures
    it holds code for, or where one with the usual ones would be.
    """
    place = into or library_folder()
    found = place.glob(f"_{device}-{source_hash(device, folder)}*.so")
    return next(found, place / _library_name(device, folder, ARCHITECTURES))


def _library_name(device: str, folder: Path, architectures: Sequence[str]) -> str:
    held = architectures if device == "cuda" else ()
    return "-".join([f"_{device}", source_hash(device, folder), *held]) + ".so"


def architectures_in(path: Path) -> list[int]:
    """Return the architectures (80 for sm_80) that a CUDA library's name says it holds."""
    return sorted(_number(name) for name in path.stem.split("-") if name.startswith("sm_"))


def _number(architecture: str) -> int:
    return int(architecture.removeprefix("sm_"))


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
    if device == "cuda":
        return find_cuda_program("nvcc")
    return next((path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), None)


def find_cuda_program(name: str) -> str | None:
    """Return a CUDA toolkit's program: on PATH, in CUDA_HOME, CUDA_PATH or the usual folder."""
    homes = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")] + [_CUDA_FOLDER]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which(name, path=os.pathsep.join(places))


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that a CPU library is compiled for; it chooses at run time."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return tuple(_INSTRUCTION_SETS) if x86 else ("plain",)


Unit = tuple[Path, str, list[str]]  # a source file, its object file's name, flags of its own


def _units(device: str, folder: Path, sets: Sequence[str]) -> list[Unit]:
    """Return what a device's library is compiled from."""
    units: list[Unit] = [(folder / "bindings.cpp", "bindings.o", [])]
    suffix = ".cu" if device == "cuda" else ".cpp"
    for source in sorted((folder / device).glob(f"*{suffix}")):
        if device == "cpu" and source.stem in _PER_INSTRUCTION_SET:
            for name in sets:
                flags = [*_INSTRUCTION_SETS[name], f"-DASTRA_INSTRUCTION_SET={name}"]
                units.append((source, f"{source.stem}_{name}.o", flags))
        else:
            defines = [f"-DASTRA_WITH_{name}" for name in sets if device == "cpu"]
            units.append((source, f"{source.stem}.o", defines))
    return units


def _device_flags(device: str, architectures: Sequence[str]) -> list[str]:
    """The flags of a device's compiler.

    CUDA gets machine code for each architecture, and the newest's PTX for devices yet to come.
    """
    if device == "cpu":
        return [*_COMMON_FLAGS, *_HOST_FLAGS]
    numbers = sorted(_number(name) for name in architectures)
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    ptx = f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"
    return [*_COMMON_FLAGS, "-DUSE_CUDA", f"-Xcompiler={','.join(_HOST_FLAGS)}", *codes, ptx]


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


def _compile(compiler: Sequence[str], units: Sequence[Unit], workspace: Path) -> list[str]:
    """Compile all units at once; returns the object files."""
    commands = [
        [*compiler, *flags, "-c", str(source), "-o", str(workspace / name)]
        for source, name, flags in units
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(_call, commands))
    return [command[-1] for command in commands]


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
    """Compile a device's library and return its path; one that is there already is kept, for CUDA
    if it holds code for every architecture named.

    sets: for a CPU, names of instruction sets, "plain" among them (default: all that this kind of
    processor may have). into: another folder to build in. Raises UserError where sources, torch's
    headers or the compiler are missing, or compiling fails.
    """
    folder, torch, compiler = _require_tools(device)
    place = into or library_folder()
    place.mkdir(parents=True, exist_ok=True)
    found = library_path(device, folder, into=place)
    wanted = {_number(name) for name in architectures} if device == "cuda" else set()
    if found.exists() and wanted <= set(architectures_in(found)):
        return found
    target = place / _library_name(device, folder, architectures)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        flags = [*_device_flags(device, architectures), "-isystem", str(torch / "include")]
        units = _units(device, folder, sets or instruction_sets())
        objects = _compile([compiler, *flags], units, Path(scratch))
        library = Path(scratch) / "library.so"
        link = _link_flags(device, torch, Path(scratch), compiler)
        _call([compiler, "-shared", *flags, *objects, *link, "-o", str(library)])
        library.replace(target)  # atomic: a process that builds at the same time sees a whole file
    _remove_others(target, device)
    return target


def adopt(device: str, path: Path) -> Path:
    """Copy a library that was compiled elsewhere to where it is looked for; returns that place.

    Raises UserError unless its name says that it was made from these sources.
    """
    folder = source_folder()
    prefix = f"_{device}-{source_hash(device, folder)}" if folder is not None else f"_{device}-"
    if not path.is_file() or not path.name.startswith(prefix):
        raise UserError(
            f"'{path}' is no library of these sources: its name must begin with {prefix} (compile "
            f"it from this checkout: python -m engines.kernels.build --device {device})"
        )
    place = library_folder()
    place.mkdir(parents=True, exist_ok=True)
    if path.resolve().parent != place:
        shutil.copy2(path, place / "library.tmp")
        (place / "library.tmp").replace(place / path.name)
    _remove_others(place / path.name, device)
    return place / path.name


def _remove_others(library: Path, device: str) -> None:
    for stale in library.parent.glob(f"_{device}-*.so"):
        if stale != library:
            stale.unlink(missing_ok=True)


def _require_tools(device: str) -> tuple[Path, Path, str]:
    """Return sources, torch's folder and compiler; or raise UserError for the first absent."""
    folder, torch, compiler = source_folder(), find_torch(), find_compiler(device)
    if folder is None:
        raise UserError("the kernels' sources (csrc/) are not here: install from a checkout")
    if torch is None:
        raise UserError("torch is not installed: install it first (torch>=2.11)")
    if compiler is None:
        name = "a C++ compiler (g++ or clang++) was not found on PATH"
        if device == "cuda":
            name = f"nvcc was not found on PATH, in CUDA_HOME or in {_CUDA_FOLDER}"
        raise UserError(f"{name}: install it to compile the {device} kernels")
    return folder, torch, compiler


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
