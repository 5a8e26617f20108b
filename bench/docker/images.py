"""The systems' images: named, found stale or fresh by a hash of their sources, and built."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.docker.context import EXTRA, NO_CA, checkout, lock_hash, pack, source_hash
from bench.docker.daemon import refusal
from bench.results.provenance import git_state
from engines.core.config import System
from engines.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from docker import DockerClient

DEVICES = ("cuda", "cpu")
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
_TAIL = 10  # lines of a failed step to show
_STEP_WIDTH = 90
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # the daemon's, for what a step prints as errors
_WORKS = re.compile(r": (FROM|RUN|COPY) ")  # steps that may take a while


class ImageState(Enum):
    """How an image compares with the checkout."""

    FRESH = "fresh"
    STALE = "stale"
    MISSING = "missing"


@dataclass(frozen=True)
class Image:
    """An image that is there: its name, its id (a digest of its content) and its source hash."""

    name: str
    image_id: str
    source: str
    size_bytes: int


def image_system(system: str) -> str:
    """Return whose image serves a system: the three Orca variants share one."""
    return "orca" if System.parse(system).value.startswith("orca") else system


@dataclass(frozen=True)
class Recipe:
    """How one image is made: whose, for which device, with which build arguments."""

    system: str
    device: str
    build_args: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise unknown_name("device of an image", self.device, DEVICES)

    @property
    def name(self) -> str:
        """The image's name and tag; `docker run sosp23-astra` is the one for GPUs."""
        return f"sosp23-{self.system}:{'latest' if self.device == 'cuda' else self.device}"

    @property
    def arguments(self) -> dict[str, str]:
        """All build arguments, defaults of the device included."""
        base = {"DEVICE": self.device}
        if self.device == "cpu":
            base["BASE_IMAGE"] = CPU_BASE
        return {**base, **self.build_args}

    def source(self, root: Path) -> str:
        """Hash of what the image is made from."""
        deciding = {k: v for k, v in self.arguments.items() if k in _DECIDING}
        return source_hash(self.system, root, deciding)


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


class Images:
    """The images that a daemon holds, against the checkout they should be made from."""

    def __init__(
        self, client: DockerClient, *, root: Path | None = None, build_args: Mapping[str, str]
    ) -> None:
        self._client = client
        self._root = root
        self._build_args = dict(build_args)

    @property
    def root(self) -> Path:
        """The checkout; raises UserError where there is none."""
        return self._root or checkout()

    def recipe(self, system: str, device: str) -> Recipe:
        """Return how a system's image is made with the build arguments that were given."""
        with_library = system == "ft" and bool(self._build_args.get("FT_LIBRARY"))
        left_out = () if with_library else _OF_LIBRARY
        given = {k: v for k, v in self._build_args.items() if k not in left_out}
        return Recipe(system, device, given)

    def find(self, recipe: Recipe) -> Image | None:
        """Return the image that is there under the recipe's name, or None."""
        import docker

        try:
            found = self._client.images.get(recipe.name)
        except docker.errors.ImageNotFound:
            return None
        source = (found.labels or {}).get(SOURCE_LABEL, "")
        return Image(recipe.name, found.id, source, found.attrs.get("Size", 0))

    def state(self, recipe: Recipe) -> ImageState:
        """Say whether the image is there and made from the present sources."""
        found = self.find(recipe)
        if found is None:
            return ImageState.MISSING
        fresh = found.source == recipe.source(self.root)
        return ImageState.FRESH if fresh else ImageState.STALE

    def ensure(self, recipe: Recipe, note: Callable[[str], None]) -> Image:
        """Return a fresh image, built first if it is missing or stale; raises UserError."""
        state = self.state(recipe)
        if state is not ImageState.FRESH:
            note(f"{recipe.name} is {state.value}: building it")
            self.build(recipe, note)
        found = self.find(recipe)
        assert found is not None, "an image that was just built is there"
        return found

    def build(self, recipe: Recipe, note: Callable[[str], None]) -> None:
        """Build an image, with a note for each step; raises UserError with the failing one.

        The image that had the name before is removed unless something uses it.
        """
        import docker

        before = self.find(recipe)
        authority = recipe.arguments.get("EXTRA_CA", "")
        arguments = {
            **recipe.arguments,
            "EXTRA_CA": f"{EXTRA}/ca.crt" if authority else NO_CA,
            "SOURCE_REVISION": _revision(),
            "SOURCE_SHA256": recipe.source(self.root),
            "LOCK_SHA256": lock_hash(recipe.device, self.root),
        }
        try:
            lines = self._client.api.build(
                fileobj=pack(
                    recipe.system, self.root, extra_ca=Path(authority) if authority else None
                ),
                custom_context=True,
                dockerfile=f"Dockerfile.{recipe.system}",
                tag=recipe.name,
                buildargs=arguments,
                use_config_proxy=True,
                rm=True,
                forcerm=True,
                decode=True,
            )
            follow_build(lines, name=recipe.name, note=note)
        except docker.errors.APIError as error:
            raise UserError(f"building {recipe.name} failed: {refusal(error)}") from error
        after = self.find(recipe)
        if before is not None and after is not None and before.image_id != after.image_id:
            self._drop(before)

    def _drop(self, image: Image) -> None:
        import docker

        try:
            self._client.images.remove(image.image_id)
        except docker.errors.APIError:
            return  # still in use: by a container, or under another name


def _revision() -> str:
    state = git_state()
    changed = "-dirty" if state["git_dirty"] else ""
    return f"{state['git_commit'] or 'unknown'}{changed}"


def follow_build(
    lines: Iterable[Mapping[str, Any]], *, name: str, note: Callable[[str], None]
) -> None:
    """Note each step of a build; raises UserError with the last lines of the one that fails."""
    step, tail = "before the first step", list[str]()
    for line in lines:
        for text in _COLOURS.sub("", str(line.get("stream", ""))).splitlines():
            if text.startswith("Step "):
                step, tail = text, []
                if _WORKS.search(text):
                    note(f"{name}: {_shorten(text)}")
            elif text.strip():
                tail = [*tail, text.strip()][-_TAIL:]
        if "error" in line:
            for text in tail:
                note(f"  | {text}")
            raise UserError(f"building {name} failed at {_shorten(step)}: {line['error']}")


def _shorten(step: str) -> str:
    words = " ".join(step.split())
    return words if len(words) <= _STEP_WIDTH else f"{words[: _STEP_WIDTH - 3]}..."


def build_args_of_environment() -> dict[str, str]:
    """Read BENCH_BUILD_ARGS: NAME=VALUE words that hold for every build of a shell session."""
    return parse_build_args(os.environ.get("BENCH_BUILD_ARGS", "").split())
