"""Bundles for an archival repository: images, lock files, results and sources, with checksums.

A bundle is a folder: `images.tar` (as `docker load` reads it), `sources.tar.gz`, `results.tar.gz`,
`locks/`, `manifest.json` (what is in it) and `SHA256SUMS`, written last.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.context import SYSTEMS, source_files
from bench.docker.daemon import refusal
from bench.docker.images import Image
from bench.files import check_writable, describe, json_bytes
from bench.results.provenance import git_state
from engines.core.errors import UserError

if TYPE_CHECKING:
    from docker import DockerClient

IMAGES = "images.tar"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
_RESULTS = ("results", "kernels", "scale-cpu.json", "figures", "report")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle: the checkout, images that are fresh, the artifacts directory."""

    root: Path
    images: Sequence[Image]
    artifacts: Path


def write_bundle(
    client: DockerClient, contents: Contents, folder: Path, note: Callable[[str], None]
) -> None:
    """Write a bundle into a folder that must not exist yet; raises UserError, leaving nothing."""
    if folder.exists():
        raise UserError(f"{folder} exists already: move it away, or use --out with another place")
    check_writable(folder)
    try:
        folder.mkdir(parents=True)
        note(f"sources: {_archive(folder / 'sources.tar.gz', _sources(contents.root))} files")
        results = _results(contents.artifacts)
        note(f"results: {_archive(folder / 'results.tar.gz', results)} files")
        shutil.copytree(contents.root / "containers" / "locks", folder / "locks")
        for image in contents.images:
            note(f"image: {image.name} ({image.image_id[:19]})")
        _save(client, [image.name for image in contents.images], folder / IMAGES)
        manifest = {"images": [asdict(image) for image in contents.images], **git_state()}
        (folder / MANIFEST).write_bytes(json_bytes(manifest))
        lines = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
        (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise describe(error, folder) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def verify_sums(folder: Path) -> int:
    """Compare every file of a bundle with its checksum; returns how many; raises UserError."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{folder} is no bundle: {SUMS} cannot be read") from error
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = set(_files(folder))
    for what, names in (
        ("is missing from", expected.keys() - present),
        ("does not belong to", present - expected.keys()),
    ):
        if names:
            raise UserError(f"{min(names)} {what} the bundle {folder}")
    for name, digest in expected.items():
        if _sha256(folder / name) != digest:
            raise UserError(f"{name} in {folder} does not match its checksum: copy it again")
    return len(expected)


def load_images(client: DockerClient, folder: Path) -> list[Image]:
    """Load a bundle's images into the daemon; raises UserError unless they are those of its list.

    Needs no network.
    """
    import docker

    recorded = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["images"]
    images = [Image(**values) for values in recorded]
    try:
        with (folder / IMAGES).open("rb") as archive, _patient(client):
            loaded = {image.id for image in client.images.load(archive)}
    except (OSError, docker.errors.APIError, docker.errors.ImageLoadError) as error:
        raise UserError(f"{folder / IMAGES} does not load: {refusal(error)}") from error
    for image in images:
        if image.image_id not in loaded:
            raise UserError(f"{IMAGES} holds another {image.name} than {MANIFEST} says")
    return images


@contextmanager
def _patient(client: DockerClient) -> Iterator[None]:
    """Wait for answers without a limit: to take in the images for GPUs lasts minutes."""
    before, client.api.timeout = client.api.timeout, None
    try:
        yield
    finally:
        client.api.timeout = before


def _save(client: DockerClient, names: Sequence[str], path: Path) -> None:
    """Write images into one archive, so that layers that they share are in it once."""
    api: Any = client.api
    answer = api.get(
        f"{api.base_url}/v{api.api_version}/images/get",
        params={"names": list(names)},
        stream=True,
        timeout=None,
    )
    answer.raise_for_status()
    with path.open("wb") as file:
        for piece in answer.iter_content(_CHUNK):
            file.write(piece)


def _sources(root: Path) -> Iterator[tuple[str, Path]]:
    """All files under version control, or what images are made from where that is unknown."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        yield from {name: path for s in SYSTEMS for name, path in source_files(s, root)}.items()
        return
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            yield name, root / name


def _results(artifacts: Path) -> Iterator[tuple[str, Path]]:
    for part in _RESULTS:
        top = artifacts / part
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file():
                yield path.relative_to(artifacts).as_posix(), path


def _archive(path: Path, files: Iterable[tuple[str, Path]]) -> int:
    """Write a compressed archive without owners and times; returns the number of files."""
    count = 0
    with (
        path.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, source in files:
            information = tarfile.TarInfo(name)
            information.size = source.stat().st_size
            information.mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
            with source.open("rb") as content:
                tar.addfile(information, content)
            count += 1
    return count


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != SUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
