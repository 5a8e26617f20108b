"""Building, finding and refusing libraries."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines.core.errors import UserError
from engines.kernels import build

SOURCES = build.source_folder()
NEEDS_TORCH = pytest.mark.skipif(build.find_torch() is None, reason="torch is not installed")


def _copied_sources(tmp_path: Path) -> Path:
    assert SOURCES is not None, "a checkout has csrc/"
    return Path(shutil.copytree(SOURCES, tmp_path / "csrc"))


def test_a_changed_source_changes_the_librarys_name(tmp_path: Path) -> None:
    folder = _copied_sources(tmp_path)
    names = {device: build.library_path(device, folder).name for device in build.DEVICES}
    (folder / "cpu" / "attend.cpp").write_text("// changed\n")
    assert build.library_path("cpu", folder).name != names["cpu"]
    assert build.library_path("cuda", folder).name == names["cuda"]
    (folder / "kernels.h").write_text("// changed\n")
    assert build.library_path("cuda", folder).name != names["cuda"]


def test_the_command_names_an_unknown_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--device", "cudo"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown device 'cudo': did you mean cuda or")


@NEEDS_TORCH
def test_without_a_compiler_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(build, "_CUDA_FOLDER", str(tmp_path / "usual"))
    assert build.main(["--device", "cuda"]) == 2
    expected = f"nvcc was not found on PATH, in CUDA_HOME or in {tmp_path}/usual: install it"
    assert expected in capsys.readouterr().err


def test_nvcc_is_looked_for_on_path_then_where_the_toolkit_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "_CUDA_FOLDER", str(tmp_path / "usual"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "other"))
    assert build.find_compiler("cuda") is None
    for place in ("usual/bin", "other/bin", "home/bin", "path"):  # each goes before those before it
        program = tmp_path / place / "nvcc"
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
        assert build.find_compiler("cuda") == str(program)


@NEEDS_TORCH
def test_a_compilers_error_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if build.find_compiler("cpu") is None:
        pytest.skip("no C++ compiler")
    folder = _copied_sources(tmp_path)
    for source in folder.glob("**/*.cpp"):
        source.write_text("#error planted\n")
    monkeypatch.setattr(build, "source_folder", lambda: folder)
    with pytest.raises(UserError, match="#error planted") as caught:
        build.build("cpu", into=tmp_path / "lib")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "lib").iterdir()) == [], "nothing is left behind"


@NEEDS_TORCH
def test_without_a_library_the_reference_runs_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from kernel_cases import Shape, Target, paged_error

    from engines.kernels import library

    monkeypatch.setattr(build, "library_folder", lambda: tmp_path)
    monkeypatch.setattr(build, "find_compiler", lambda _device: None)
    kernels = library.load_kernels.__wrapped__("cpu")
    assert not kernels.compiled
    assert "the cpu kernels run as their PyTorch reference, slowly: a C++" in caplog.text
    import torch

    assert paged_error(Target(kernels, "cpu"), Shape(torch.float32, 72, 300), [5, 400]) < 1e-5


@NEEDS_TORCH
def test_a_stale_cuda_library_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from engines.kernels import library

    (tmp_path / "_cuda-0123456789ab.so").write_bytes(b"")
    monkeypatch.setattr(build, "library_folder", lambda: tmp_path)
    assert not library.load_kernels.__wrapped__("cuda").compiled
    assert "_cuda-0123456789ab.so was built from other sources: run python -m" in caplog.text


@NEEDS_TORCH
def test_a_damaged_library_is_told_and_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from engines.kernels import library

    assert SOURCES is not None, "a checkout has csrc/"
    path = build.library_path("cpu", SOURCES, into=tmp_path)
    path.write_bytes(b"\x7fELF")
    monkeypatch.setattr(build, "library_folder", lambda: tmp_path)
    assert not library.load_kernels.__wrapped__("cpu").compiled
    assert f"{path.name} cannot be loaded (" in caplog.text
    assert f"delete it in {tmp_path}" in caplog.text


@NEEDS_TORCH
def test_an_installation_without_sources_checks_its_librarys_architecture_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    from engines.kernels import library

    (tmp_path / "_cuda-0123456789ab-sm_80-sm_90.so").write_bytes(b"")
    monkeypatch.setattr(build, "library_folder", lambda: tmp_path)
    monkeypatch.setattr(build, "source_folder", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert not library.load_kernels.__wrapped__("cuda").compiled
    assert "holds code for sm_80, sm_90, but this device is sm_70: run python -m" in caplog.text


@NEEDS_TORCH
@pytest.mark.parametrize(
    ("held", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_80", (9, 0), True),  # the newest's PTX
        ("sm_80-sm_90", (12, 0), True),
        ("sm_80-sm_100", (9, 0), False),
        ("sm_86", (8, 0), False),
        ("sm_90", (8, 9), False),
    ],
)
def test_code_runs_on_its_own_architecture_and_ptx_on_later_ones(
    monkeypatch: pytest.MonkeyPatch, held: str, capability: tuple[int, int], runs: bool
) -> None:
    import torch

    from engines.kernels import library

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    path = Path(f"_cuda-0123456789ab-{held}.so")
    if runs:
        library.check_architecture(path)
    else:
        with pytest.raises(UserError, match=r"run python -m .* --arch sm_\d+$"):
            library.check_architecture(path)


@NEEDS_TORCH
def test_a_library_without_an_architecture_asked_for_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A compiler of the test's own writes what it was asked for."""

    def compile_it(command: list[str]) -> None:
        Path(command[command.index("-o") + 1]).write_text("\n".join(command))

    monkeypatch.setattr(build, "find_compiler", lambda _device: "nvcc")
    monkeypatch.setattr(build, "_call", compile_it)
    path = build.build("cuda", into=tmp_path)
    whole = path.read_text()
    assert set(re.findall(r",code=(\w+)", whole)) == {"sm_80", "sm_90", "compute_90"}
    assert build.architectures_in(path) == [80, 90]
    assert build.build("cuda", architectures=("sm_80",), into=tmp_path) == path
    assert path.read_text() == whole, "code for both is there already"
    other = build.build("cuda", architectures=("sm_75",), into=tmp_path)
    assert list(tmp_path.iterdir()) == [other]
    assert set(re.findall(r",code=(\w+)", other.read_text())) == {"sm_75", "compute_75"}


def test_a_library_that_was_compiled_elsewhere_is_put_where_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert SOURCES is not None, "a checkout has csrc/"
    place = tmp_path / "lib"
    monkeypatch.setattr(build, "library_folder", lambda: place)
    name = build.library_path("cuda", SOURCES, into=tmp_path).name
    (tmp_path / name).write_text("compiled")
    place.mkdir()
    (place / "_cuda-0123456789ab-sm_80.so").touch()
    for _ in range(2):  # again from where it lies then
        path = build.adopt("cuda", tmp_path / name)
        assert build.adopt("cuda", path) == path == place / name
        assert [each.read_text() for each in place.iterdir()] == ["compiled"]
    for wrong in (tmp_path / "none.so", tmp_path / name.replace("cuda", "cpu"), tmp_path):
        with pytest.raises(UserError, match="is no library of these sources: its name must begin"):
            build.adopt("cuda", wrong)


@pytest.mark.slow
@NEEDS_TORCH
def test_the_cuda_library_compiles_for_both_architectures(tmp_path: Path) -> None:
    """nvcc alone compiles it: machine code for the A100 and for Hopper, and later devices' PTX."""
    if build.find_compiler("cuda") is None:
        pytest.skip("no nvcc")
    path = build.build("cuda", into=tmp_path)
    assert build.architectures_in(path) == [80, 90]
    if (cuobjdump := shutil.which("cuobjdump")) is not None:
        command = [cuobjdump, "-lelf", str(path)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True)
        assert {"sm_80", "sm_90"} <= set(re.findall(r"sm_\d+", listing.stdout))
    _check_symbols(path, {"libtorch_cuda.so", "libtorch_cpu.so"})


@pytest.mark.slow
@NEEDS_TORCH
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86-64 matter")
@pytest.mark.parametrize("sets", [("plain",), ("plain", "avx2")])
def test_narrower_instruction_sets_compute_the_same(tmp_path: Path, sets: tuple[str, ...]) -> None:
    """A library for older processors passes the same checks, in a process of its own."""
    if build.find_compiler("cpu") is None:
        pytest.skip("no C++ compiler")
    path = build.build("cpu", sets=sets, into=tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from kernel_grid import Target, failures, usual_cases\n"
        "from engines.kernels.library import load_library\n"
        "target = Target(load_library(Path(sys.argv[1]), 'astra_cpu'), 'cpu')\n"
        "sys.exit('; '.join(failures(list(usual_cases('cpu'))[::5], target)) or 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _check_symbols(path, {"libtorch_cpu.so"})


def _check_symbols(path: Path, libraries: set[str]) -> None:
    """What the library needs comes from torch's stable interface and the C and C++ libraries."""
    if shutil.which("readelf") is None or shutil.which("nm") is None:
        return
    listing = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True)
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", listing.stdout))
    system = ("libc.", "libm.", "libstdc++", "libgcc_s", "ld-linux", "libdl", "librt", "libpthread")
    assert {name for name in needed if not name.startswith(system)} == libraries
    symbols = subprocess.run(["nm", "-D", "-u", path], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in symbols.stdout.splitlines()]
    own = [n for n in names if "@GLIBC" not in n and not re.match(r"_ZN?K?S|_Z(S|TV|TI|d|n)|_", n)]
    foreign = [name for name in own if not re.match(r"(aoti_torch_|torch_)", name)]
    assert foreign == []


@NEEDS_TORCH
def test_a_device_without_kernels_has_the_reference_and_no_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A checkpoint's tensors are listed on the meta device: nothing is compiled for it."""
    from engines.kernels import library

    assert not library.load_kernels.__wrapped__("meta").compiled
    assert not caplog.records
