"""The systems' images: named, found stale or fresh by a hash of their sources, and built."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import bench
from bench.docker.daemon import refusal
from bench.machine import git_state
from bench.point.spec import parse_name
from engines.core.config import System
from engines.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from docker import DockerClient

SYSTEMS = ("astra", "orca", "ft")
SOURCE_LABEL = "sosp23.source"
# A base for machines without a GPU; with one, the Dockerfiles name NVIDIA's.
CPU_BASE = (
    "debian:bookworm-20251229-slim"
    "@sha256:d5d3f9c23164ea16f31852f95bd5959aad1c5e854332fe00f7b3a20fcc9f635c"
)
# Build arguments that decide what an image holds; all others only say how to get it.
_DECIDING = ("BASE_IMAGE", "DEVICE", "CUDA_ARCHITECTURES", "FT_LIBRARY", "FT_IMAGE")
_OF_LIBRARY = ("FT_LIBRARY", "FT_IMAGE")  # for FasterTransformer's image alone
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")  # or capitals
_KNOWN = (
    *("BASE_IMAGE", "CUDA_ARCHITECTURES", "EXTRA_CA", "PIP_INDEX_URL", "TORCH_INDEX"),
    *(*_OF_LIBRARY, *_PROXIES),
)
_EXTRA = "containers/extra"
# Sent to the builder without deciding what an image holds: the package's description, and wheels
# that are checked by the lock's hashes.
_NOT_HASHED = ("README.md", f"{_EXTRA}/")
_TAIL = 10  # lines of a failed step to show
_STEP_WIDTH = 90
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # the daemon's, for what a step prints as errors
_SLOW_STEPS = re.compile(r": (FROM|RUN|COPY) ")


@dataclass(frozen=True)
class Image:
    """An image that the daemon has: its name, its id (a digest of its content), its source hash."""

    name: str
    image_id: str
    source: str
    size_bytes: int


def image_system(system: str) -> str:
    """Return whose image serves a system: the three Orca variants share one."""
    return parse_name(System, system).family


def checkout() -> Path:
    """Return the checkout that this package runs from; raises UserError where there is none."""
    root = Path(bench.__file__).resolve().parent.parent
    if not (root / ".dockerignore").is_file():
        raise UserError(
            f"images are built from a checkout, and {root} is none: clone the repository and "
            "run `make install` there"
        )
    return root


@dataclass(frozen=True)
class Recipe:
    """How one image is made: for which system and device ("cuda", "cpu"), from which checkout."""

    system: str
    device: str
    build_args: Mapping[str, str] = field(default_factory=dict)
    root: Path = field(default_factory=checkout)

    @property
    def name(self) -> str:
        """The image's name and tag; `docker run sosp23-astra` is the one for GPUs."""
        return f"sosp23-{self.system}:{'latest' if self.device == 'cuda' else self.device}"

    @property
    def arguments(self) -> dict[str, str]:
        """All build arguments, defaults of the device included."""
        with_library = self.system == "ft" and bool(self.build_args.get("FT_LIBRARY"))
        left_out = () if with_library else _OF_LIBRARY
        base = {"BASE_IMAGE": CPU_BASE} if self.device == "cpu" else {}
        given = {k: v for k, v in self.build_args.items() if k not in left_out}
        return {"DEVICE": self.device, **base, **given}

    def paths(self) -> list[str]:
        """The files and folders that are sent to the builder: what .dockerignore lets through."""
        from docker.utils.build import exclude_paths

        lines = (self.root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [line for line in lines if line and not line.startswith("#")]
        return sorted(exclude_paths(str(self.root), patterns, f"Dockerfile.{self.system}"))

    def source_hash(self) -> str:
        """SHA-256 over the files and the build arguments that decide what is in the image."""
        digest = hashlib.sha256()
        for name in self.paths():
            if (self.root / name).is_file() and not name.startswith(_NOT_HASHED):
                content = (self.root / name).read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode())
                digest.update(content)
        for name, value in sorted(self.arguments.items()):
            if name in _DECIDING:
                digest.update(f"{name}={value}\0".encode())
        return digest.hexdigest()

    def context(self) -> IO[bytes]:
        """Return the build context as a tar archive; raises UserError for an unreadable file."""
        from docker.utils.build import create_archive

        authority, extra = self.arguments.get("EXTRA_CA"), []
        try:
            if authority:
                extra = [(f"{_EXTRA}/ca.crt", Path(authority).read_text(encoding="utf-8"))]
            archive: IO[bytes] = create_archive(str(self.root), self.paths(), extra_files=extra)
        except OSError as error:
            raise UserError(f"cannot read what an image is built from: {error}") from error
        return archive


def parse_build_args(words: Iterable[str]) -> dict[str, str]:
    """Read NAME=VALUE words; raises UserError for any other, and for names without a meaning."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"build argument must be NAME=VALUE, got '{word}'")
        if name == "DEVICE":
            raise UserError(
                "the device is no build argument here: it follows the backend, or --device of "
                "bench images (by make: DEVICE=)"
            )
        if name not in _KNOWN and name.lower() not in _PROXIES:
            raise unknown_name("build argument", name, _KNOWN)
        found[name] = value
    return found


def find_image(client: DockerClient, recipe: Recipe) -> Image | None:
    """Return the image that is there under the recipe's name, or None."""
    import docker

    try:
        found = client.images.get(recipe.name)
    except docker.errors.ImageNotFound:
        return None
    source = (found.labels or {}).get(SOURCE_LABEL, "")
    return Image(recipe.name, found.id, source, found.attrs.get("Size", 0))


def state_of(image: Image | None, recipe: Recipe) -> str:
    """Compare an image with the checkout: "missing", "stale" or "fresh"."""
    if image is None:
        return "missing"
    return "fresh" if image.source == recipe.source_hash() else "stale"


def ensure_image(client: DockerClient, recipe: Recipe, note: Callable[[str], None]) -> Image:
    """Return a fresh image, built first if it is missing or stale; raises UserError."""
    found = find_image(client, recipe)
    state = state_of(found, recipe)
    if found is not None and state == "fresh":
        return found
    note(f"{recipe.name} is {state}: building it")
    return build_image(client, recipe, note)


def build_image(client: DockerClient, recipe: Recipe, note: Callable[[str], None]) -> Image:
    """Build an image, with a note for each step; raises UserError with the failing one.

    The image that had the name before is removed unless something uses it.
    """
    import docker

    before = find_image(client, recipe)
    with recipe.context() as context:
        try:
            lines = client.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=f"Dockerfile.{recipe.system}",
                tag=recipe.name,
                buildargs=_arguments_of_build(recipe),
                use_config_proxy=True,
                rm=True,
                forcerm=True,
                decode=True,
            )
            follow_build(lines, name=recipe.name, note=note)
        except docker.errors.APIError as error:
            raise UserError(f"building {recipe.name} failed: {refusal(error)}") from error
    after = find_image(client, recipe)
    assert after is not None, "an image that was just built is there"
    if before is not None and before.image_id != after.image_id:
        with suppress(docker.errors.APIError):  # in use: by a container, or under another name
            client.images.remove(before.image_id)
    return after


def _arguments_of_build(recipe: Recipe) -> dict[str, str]:
    """The recipe's arguments, the certificates' place in the context, and what labels record."""
    git = git_state()
    lock = recipe.root / "containers" / "locks" / f"{recipe.device}.txt"
    dirty = "-dirty" if git["git_dirty"] else ""
    return {
        **recipe.arguments,
        "EXTRA_CA": f"{_EXTRA}/{'ca' if recipe.arguments.get('EXTRA_CA') else 'none'}.crt",
        "SOURCE_REVISION": f"{git['git_commit'] or 'unknown'}{dirty}",
        "SOURCE_SHA256": recipe.source_hash(),
        "LOCK_SHA256": hashlib.sha256(lock.read_bytes()).hexdigest(),
    }


def follow_build(
    lines: Iterable[Mapping[str, Any]], *, name: str, note: Callable[[str], None]
) -> None:
    """Note each step of a build; raises UserError with the last lines of the one that fails."""
    step, tail = "before the first step", list[str]()
    for line in lines:
        for text in _COLOURS.sub("", str(line.get("stream", ""))).splitlines():
            if text.startswith("Step "):
                step, tail = textwrap.shorten(text, _STEP_WIDTH, placeholder=" ..."), []
                if _SLOW_STEPS.search(text):
                    note(f"{name}: {step}")
            elif text.strip():
                tail = [*tail, text.strip()][-_TAIL:]
        if "error" in line:
            for text in tail:
                note(f"  | {text}")
            raise UserError(f"building {name} failed at {step}: {line['error']}")
