"""Compiles what runs faster compiled: the engine with mypyc, and the kernels of a built wheel.

Everything else is in pyproject.toml. The engine needs a C compiler and Python's headers, and runs
as plain Python where they are missing (see `engines/compiled.py`). The kernels' library needs
PyTorch's headers and a C++ compiler; where either is missing the wheel carries the sources alone
and the library is compiled on first use. A library that lies in the checkout, for the CPU or for
CUDA, and is up to date goes into the wheel.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from engines import compiled  # noqa: E402

KERNELS = Path("engines") / "kernels"


def compile_engine(into: Path) -> None:
    """Compile the engine's modules into a folder below `into`, in place of older builds."""
    from mypyc.build import mypycify

    files = [f"engines/{name.replace('.', '/')}.py" for name in compiled.MODULES]
    options = ["--config-file=", "--ignore-missing-imports"]
    with tempfile.TemporaryDirectory(prefix="engine-") as work:
        extensions = mypycify(
            [*options, *files], opt_level="3", group_name=compiled.GROUP, target_dir=work
        )
        command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = f"{work}/lib", f"{work}/temp"
        command.ensure_finalized()
        command.run()
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(f"{work}/lib", into / "part")
    (into / "part").rename(into / compiled.key())


def try_to_compile_engine(into: Path) -> None:
    """Compile the engine unless that has been done, or say why it cannot be."""
    if (into / compiled.key()).is_dir():
        return
    try:
        compile_engine(into)
    except (Exception, SystemExit) as error:  # mypyc exits where mypy finds an error
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"notice: the engine is not compiled and runs as Python: {reason}", file=sys.stderr)


class BuildCompiled(build_py):
    """Compiles the engine, and copies csrc/ into engines/kernels/ with the libraries it makes."""

    def run(self) -> None:
        """Build the packages and the engine, then the kernels unless the install is editable."""
        super().run()
        if self.editable_mode:
            try_to_compile_engine(compiled.BUILDS)
            return
        try_to_compile_engine(Path(self.build_lib) / "engines" / compiled.BUILDS.name)
        target = Path(self.build_lib) / KERNELS
        shutil.copytree(ROOT / "csrc", target / "csrc", dirs_exist_ok=True)
        from engines.core.errors import UserError
        from engines.kernels.build import DEVICES, build, library_path

        for device in DEVICES:  # one that was compiled here already is not compiled again
            library = library_path(device, ROOT / "csrc", into=ROOT / KERNELS / "lib")
            if library.exists():
                (target / "lib").mkdir(exist_ok=True)
                shutil.copy2(library, target / "lib")
        try:
            build("cpu", into=target / "lib")
        except UserError as error:
            print(f"notice: the CPU kernels are not compiled now: {error}", file=sys.stderr)


class CompiledWheel(bdist_wheel):
    """Names on a wheel what its libraries need: the platform, and Python's version if compiled."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag: any Python 3 unless the engine is compiled."""
        built = Path(self.get_finalized_command("build_py").build_lib)
        if not any(built.rglob("*.so")):
            return super().get_tag()
        self.root_is_pure = False
        tag = super().get_tag()
        engine = any((built / "engines" / compiled.BUILDS.name).rglob("*.so"))
        return tag if engine else ("py3", "none", tag[2])


setup(cmdclass={"build_py": BuildCompiled, "bdist_wheel": CompiledWheel})
