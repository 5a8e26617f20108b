"""Renews the lock files of the images, their bills of materials and Dockerfiles: `make lock`.

A lock names every package by version and hash. Its first line holds a digest of what it was made
from, so that a test finds a forgotten renewal without a network. Beside each lies the same as an
SBOM in CycloneDX's JSON, for tools that read those; hashes stay in the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = {"astra": "Astra", "orca": "Orca", "ft": "FasterTransformer"}
LOCKS = ROOT / "containers" / "locks"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_DIGEST = "# made from: "


@dataclass(frozen=True)
class Lock:
    """One lock file: the requirements behind it and the Python that it serves."""

    name: str
    python: str
    requirements: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the lock lies."""
        return LOCKS / f"{self.name}.txt"

    @property
    def sbom(self) -> Path:
        """Where its bill of materials lies."""
        return LOCKS / f"{self.name}.cdx.json"

    @property
    def pins(self) -> dict[str, str]:
        """Version of each package in the file."""
        found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", self.path.read_text("utf-8"), re.M)
        return dict(found)

    @property
    def digest(self) -> str:
        """Digest of what the lock is made from."""
        text = json.dumps([self.python, *self.requirements])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_current(self) -> bool:
        """Whether the file was made from the present requirements."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return f"{_DIGEST}{self.digest}" in lines


def locks() -> tuple[Lock, ...]:
    """Return all locks: packages for the CPU and for CUDA, what builds a wheel, the lock tool."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    extras = project["optional-dependencies"]
    runs = (*project["dependencies"], *extras["models"], *extras["ray"])

    def with_torch(build: str) -> tuple[str, ...]:
        """The newest torch that is admitted, in one of its builds."""
        return tuple(re.sub(r"^torch>=.*<=(.*)", rf"torch==\1{build}", name) for name in runs)

    with_cuda = (*with_torch(""), *extras["cuda"])
    return (
        Lock("cpu", "3.11", with_torch("+cpu")),  # Debian 12
        Lock("cuda", "3.12", with_cuda),  # Ubuntu 24.04, and uv's where the base's is too old
        Lock("build", "3.11", tuple(settings["build-system"]["requires"])),
        Lock("uv", "3.8", tuple(name for name in extras["lock"] if name.startswith("uv"))),
    )


def renew(lock: Lock, *, sources: Sequence[str] = ()) -> None:
    """Resolve a lock anew; `sources` are options of uv that name further places of packages."""
    command = [
        *("uv", "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate"),
        *("--generate-hashes", "--python-version", lock.python),
        *("--python-platform", "x86_64-manylinux_2_28", "--no-emit-index-url", *sources),
    ]
    done = subprocess.run(
        command, input="\n".join(lock.requirements), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"Error: {lock.name} cannot be locked: {done.stderr.strip()}")
    head = f"# Made by `make lock` for Python {lock.python}: do not edit.\n{_DIGEST}{lock.digest}\n"
    lock.path.parent.mkdir(parents=True, exist_ok=True)
    lock.path.write_text(head + done.stdout, encoding="utf-8")


def list_materials(lock: Lock) -> None:
    """Write the lock's SBOM."""
    command = [
        *("cyclonedx-py", "requirements", "-", "--output-reproducible", "--spec-version", "1.6"),
        *("--pyproject", str(ROOT / "pyproject.toml"), "--output-file", str(lock.sbom)),
    ]
    lines = "".join(f"{name}=={version}\n" for name, version in lock.pins.items())
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"Error: {lock.name} has no bill of materials: {done.stderr.strip()}")


def dockerfiles() -> dict[Path, str]:
    """Return path and text of each Dockerfile.

    Each is whole, so that `docker build -f Dockerfile.orca .` works by hand.
    """
    template = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    ).from_string((ROOT / "containers" / "Dockerfile.in").read_text(encoding="utf-8"))
    return {
        ROOT / f"Dockerfile.{system}": template.render(system=system, name=name)
        for system, name in SYSTEMS.items()
    }


def main() -> None:
    """Renew everything. TORCH_INDEX names an index or a folder of PyTorch's builds without CUDA."""
    index = os.environ.get("TORCH_INDEX", _CPU_INDEX)
    option = "--extra-index-url" if "://" in index else "--find-links"
    for lock in locks():
        renew(lock, sources=(option, index) if lock.name == "cpu" else ())
        list_materials(lock)
        print(lock.path.relative_to(ROOT), file=sys.stderr)
    for path, text in dockerfiles().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
