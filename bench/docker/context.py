"""What an image is made from: the files that are sent to the builder, and their hash."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import bench
from engines.core.errors import UserError

SYSTEMS = ("astra", "orca", "ft")
EXTRA = "containers/extra"
NO_CA = f"{EXTRA}/none.crt"
_PARTS = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")
_FOLDERS = ("csrc", "engines", "bench", "plot", "containers")
_TEXTS = ("README.md",)  # sent, for the package's metadata, but no reason to build anew
_LEFT_OUT = ("__pycache__", ".so", ".pyc", ".egg-info")


def checkout() -> Path:
    """Return the checkout that this package runs from; raises UserError where there is none."""
    root = Path(bench.__file__).resolve().parent.parent
    if not dockerfile_of("astra", root).is_file():
        raise UserError(
            f"images are built from a checkout, and {root} is none: clone the repository and "
            "run `make install` there"
        )
    return root


def dockerfile_of(system: str, root: Path) -> Path:
    """Path of a system's Dockerfile."""
    return root / f"Dockerfile.{system}"


def source_files(system: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file that a system's image is made from, in order of name."""
    yield from ((name, root / name) for name in (f"Dockerfile.{system}", *_PARTS))
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            made = any(part.endswith(_LEFT_OUT) for part in path.parts)
            if path.is_file() and not made and not name.startswith(f"{EXTRA}/"):
                yield name, path


def source_hash(system: str, root: Path, build_args: Mapping[str, str]) -> str:
    """SHA-256 over the files and the build arguments that decide what is in the image."""
    digest = hashlib.sha256()
    for name, path in source_files(system, root):
        if name not in _TEXTS:
            content = path.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    for name, value in sorted(build_args.items()):
        digest.update(f"{name}={value}\0".encode())
    return digest.hexdigest()


def lock_hash(device: str, root: Path) -> str:
    """SHA-256 of the lock file of a device's image."""
    return hashlib.sha256(
        (root / "containers" / "locks" / f"{device}.txt").read_bytes()
    ).hexdigest()


def pack(system: str, root: Path, *, extra_ca: Path | None = None) -> io.BytesIO:
    """Return the build context as a tar archive, certificates and wheels in its extra folder.

    Raises UserError if a file cannot be read.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        try:
            for name, path in [*source_files(system, root), *_extra_files(root)]:
                _add(tar, name, path)
            if extra_ca is not None:
                _add(tar, f"{EXTRA}/ca.crt", extra_ca)
        except OSError as error:
            raise UserError(
                f"cannot read {error.filename} to build an image: {error.strerror}"
            ) from error
    archive.seek(0)
    return archive


def _extra_files(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / EXTRA).glob("*")):
        yield path.relative_to(root).as_posix(), path


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    """Add a file without owner and time, so that equal contents make equal layers."""
    information = tarfile.TarInfo(name)
    information.size = path.stat().st_size
    information.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    with path.open("rb") as file:
        tar.addfile(information, file)
