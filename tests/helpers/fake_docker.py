"""A Docker daemon that is none, for building images, and a checkout to build them from."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
from places import ROOT


class FakeDaemon:
    """What is used of `docker.DockerClient` to build images; `build_lines` is what a build says."""

    def __init__(self) -> None:
        self.build_lines: list[dict[str, str]] = [{"stream": "Step 1/1 : FROM scratch"}]
        self.builds: list[dict[str, Any]] = []
        self.removed: list[str] = []
        self._stored: dict[str, SimpleNamespace] = {}
        self._numbers = itertools.count(1)
        self.images = SimpleNamespace(get=self._get, remove=self.removed.append)
        self.api = SimpleNamespace(build=self._build)

    def _get(self, name: str) -> SimpleNamespace:
        if name not in self._stored:
            raise docker.errors.ImageNotFound("none")
        return self._stored[name]

    def _build(self, *, fileobj: Any, **arguments: Any) -> Iterable[dict[str, str]]:
        self.builds.append({**arguments, "context": fileobj.read()})
        yield from self.build_lines
        if not any("error" in line for line in self.build_lines):
            self._stored[arguments["tag"]] = SimpleNamespace(
                id=f"sha256:{next(self._numbers):064d}",
                labels={"sosp23.source": arguments["buildargs"]["SOURCE_SHA256"]},
                attrs={"Size": 1_000_000_000},
            )


def checkout(folder: Path) -> Path:
    """A folder that has all kinds of files that images are made from, with little in them."""
    for name in ("Dockerfile.astra", "Dockerfile.orca", "Dockerfile.ft", "LICENSE", "MANIFEST.in",
                 "README.md", "pyproject.toml", "setup.py", "bench/point/serve.py", "csrc/a.cu",
                 "engines/core.py", "plot/draw.py", "tests/test_a.py", "containers/locks/cpu.txt",
                 "containers/locks/cuda.txt", "containers/extra/none.crt"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    shutil.copy(ROOT / ".dockerignore", folder)
    return folder
