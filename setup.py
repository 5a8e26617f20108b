"""Adds the kernels to a built wheel: their sources, and the CPU library where one can be made.

Everything else is in pyproject.toml. The library needs PyTorch's headers and a C++ compiler; where
either is missing the wheel carries the sources alone and the library is compiled on first use. A
library that lies in the checkout, for the CPU or for CUDA, and is up to date goes into the wheel.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
KERNELS = Path("engines") / "kernels"


class BuildWithKernels(build_py):
    """Copies csrc/ into engines/kernels/, with the libraries that it makes."""

    def run(self) -> None:
        """Build the packages, then the kernels unless the install is an editable one."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / KERNELS
        shutil.copytree(ROOT / "csrc", target / "csrc", dirs_exist_ok=True)
        sys.path.insert(0, str(ROOT))
        from engines.core.errors import UserError
        from engines.kernels.build import DEVICES, build, library_path

        for device in DEVICES:  # one that was compiled here already is not compiled again
            compiled = library_path(device, ROOT / "csrc", into=ROOT / KERNELS / "lib")
            if compiled.exists():
                (target / "lib").mkdir(exist_ok=True)
                shutil.copy2(compiled, target / "lib")
        try:
            build("cpu", into=target / "lib")
        except UserError as error:
            print(f"notice: the CPU kernels are not compiled now: {error}", file=sys.stderr)


class WheelWithKernels(bdist_wheel):
    """Names the platform on a wheel that carries a compiled library."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag: any Python 3, and the platform if a library is inside."""
        built = Path(self.get_finalized_command("build_py").build_lib) / KERNELS / "lib"
        if not any(built.glob("*.so")):
            return super().get_tag()
        self.root_is_pure = False
        _, _, platform = super().get_tag()
        return "py3", "none", platform


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelWithKernels})
