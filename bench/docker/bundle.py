"""Bundles for an archival repository: images, lock files, results and sources, with checksums.

A bundle is a folder: `images.tar` (as `docker load` reads it), `sources.tar.gz`, `results.tar.gz`,
`locks/`, `manifest.json` (what is in it) and `SHA256SUMS`, written last.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.container import Confinement
from bench.docker.daemon import refusal
from bench.docker.images import Image
from bench.docker.launch import run_json
from bench.files import check_writable, describe, json_bytes, write_file
from bench.machine import git_state, tracked_files
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

IMAGES = "images.tar"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_RESULTS = ("results", "kernels", "scale-cpu.json", "figures", "report")
_CHUNK = 1 << 20


def write_bundle(
    client: DockerClient, folder: Path, images: Sequence[Image], *, root: Path, artifacts: Path
) -> None:
    """Write a bundle into a folder that must not exist yet; raises UserError, leaving nothing.

    root: the git checkout whose sources and locks go into it. images: fresh ones.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: move it away, or use --out with another place")
    check_writable(folder)
    try:
        folder.mkdir(parents=True)
        _archive(folder / "sources.tar.gz", root, tracked_files(root))
        _archive(folder / "results.tar.gz", artifacts, _result_files(artifacts))
        shutil.copytree(root / "containers" / "locks", folder / "locks")
        _save(client, [image.name for image in images], folder / IMAGES)
        manifest = {"images": [asdict(image) for image in images], **git_state()}
        write_file(folder / MANIFEST, json_bytes(manifest))
        lines = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
        write_file(folder / SUMS, "".join(lines).encode())
    except OSError as error:
        raise describe(error, folder) from error
    finally:
        if not (folder / SUMS).exists():
            shutil.rmtree(folder, ignore_errors=True)


def verify_sums(folder: Path) -> int:
    """Compare every file of a bundle with its checksum; returns how many; raises UserError."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder} is no bundle: {SUMS} cannot be read") from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if different := expected.keys() ^ set(_files(folder)):
        name = min(different)
        what = "is missing from" if name in expected else "does not belong to"
        raise UserError(f"{name} {what} the bundle {folder}")
    for name, digest in expected.items():
        if _sha256(folder / name) != digest:
            raise UserError(f"{name} in {folder} does not match its checksum: copy it again")
    return len(expected)


def load_images(client: DockerClient, folder: Path) -> list[Image]:
    """Load a bundle's images into the daemon, offline; raises UserError unless they are its own."""
    import docker

    recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["images"]
    images = [Image(**values) for values in recorded]
    before, client.api.timeout = client.api.timeout, None  # to take in large images lasts minutes
    try:
        with (folder / IMAGES).open("rb") as archive:
            loaded = {image.id for image in client.images.load(archive)}
    except (OSError, docker.errors.APIError, docker.errors.ImageLoadError) as error:
        raise UserError(f"{folder / IMAGES} does not load: {refusal(error)}") from error
    finally:
        client.api.timeout = before
    for image in images:
        if image.image_id not in loaded:
            raise UserError(f"{IMAGES} holds another {image.name} than {MANIFEST} says")
    return images


def serve_offline(client: DockerClient, image: Image) -> str:
    """Serve a simulated point of the image's own system in a container without network; returns
    how many requests it did.
    """
    words = ["bench", "run", "--backend", "sim", "--rate", "2"]
    words += ["--duration", "60", "--json", "--quiet"]
    with tempfile.TemporaryDirectory() as artifacts:
        metrics = run_json(client, image, Confinement(Path(artifacts)), words)
    return f"{metrics['finished']} of {metrics['requests']} requests served"


def _save(client: DockerClient, names: Sequence[str], path: Path) -> None:
    """Write images into one archive, so that layers that they share are in it once."""
    api: Any = client.api  # whose own method saves one image
    address = f"{api.base_url}/v{api.api_version}/images/get"
    answer = api.get(address, params={"names": list(names)}, stream=True, timeout=None)
    answer.raise_for_status()
    with path.open("wb") as file:
        for piece in answer.iter_content(_CHUNK):
            file.write(piece)


def _result_files(artifacts: Path) -> list[str]:
    paths = (p for part in _RESULTS for p in (artifacts / part, *(artifacts / part).rglob("*")))
    return sorted(p.relative_to(artifacts).as_posix() for p in paths if p.is_file())


def _archive(path: Path, top: Path, names: Iterable[str]) -> None:
    """Write a compressed archive without owners and times."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with (
        gzip.GzipFile(path, "wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name in names:
            tar.add(top / name, name, recursive=False, filter=plain)


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
