from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fake_docker import FakeDaemon, checkout

from bench.docker.images import (
    CPU_BASE,
    Recipe,
    build_image,
    ensure_image,
    find_image,
    image_system,
    parse_build_args,
    state_of,
)
from engines.core.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path / "checkout")


@pytest.fixture
def daemon() -> Any:
    return FakeDaemon()


def names_in(context: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        return {entry.name for entry in tar if entry.isfile()}


def test_an_image_is_missing_then_fresh_then_stale(root: Path, daemon: Any) -> None:
    recipe = Recipe("astra", "cpu", root=root)
    assert state_of(find_image(daemon, recipe), recipe) == "missing"
    notes: list[str] = []
    first = ensure_image(daemon, recipe, notes.append)
    assert state_of(first, recipe) == "fresh"
    assert notes == ["sosp23-astra:cpu is missing: building it",
                     "sosp23-astra:cpu: Step 1/1 : FROM scratch"]  # fmt: skip
    assert ensure_image(daemon, recipe, notes.append) == first
    assert len(daemon.builds) == 1
    (root / "engines" / "core.py").write_text("changed\n")
    assert state_of(first, recipe) == "stale"
    assert ensure_image(daemon, recipe, notes.append) != first
    assert daemon.removed == [first.image_id]


def test_a_build_gets_its_sources_labels_and_defaults(root: Path, daemon: Any) -> None:
    (root / "authority.pem").write_text("certificate")
    given = {"PIP_INDEX_URL": "https://mirror", "EXTRA_CA": str(root / "authority.pem")}
    recipe = Recipe("orca", "cpu", given, root)
    build_image(daemon, recipe, lambda _: None)
    (build,) = daemon.builds
    assert (build["tag"], build["dockerfile"]) == ("sosp23-orca:cpu", "Dockerfile.orca")
    arguments = build["buildargs"]
    assert arguments["BASE_IMAGE"] == CPU_BASE
    assert arguments["DEVICE"] == "cpu"
    assert arguments["PIP_INDEX_URL"] == "https://mirror"
    assert arguments["EXTRA_CA"] == "containers/extra/ca.crt"
    assert arguments["SOURCE_SHA256"] == recipe.source_hash()
    lock = (root / "containers" / "locks" / "cpu.txt").read_bytes()
    assert arguments["LOCK_SHA256"] == hashlib.sha256(lock).hexdigest()
    names = names_in(build["context"])
    assert {"Dockerfile.orca", "README.md", "csrc/a.cu", "containers/extra/ca.crt"} <= names
    assert not names & {"Dockerfile.astra", "authority.pem", "tests/test_a.py"}


def test_a_missing_certificate_is_named(root: Path, daemon: Any) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none\.pem"):
        build_image(daemon, Recipe("ft", "cpu", {"EXTRA_CA": "none.pem"}, root), lambda _: None)


def test_only_what_is_in_an_image_makes_it_stale(root: Path) -> None:
    def source(device: str = "cuda", **build_args: str) -> str:
        return Recipe("astra", device, build_args, root).source_hash()

    before = source()
    for name in ("README.md", "Dockerfile.ft", "containers/extra/mine.whl", "bench/x.so",
                 "engines/__pycache__/core.pyc", "tests/test_b.py"):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("new")
    assert source() == before
    assert source(PIP_INDEX_URL="x", EXTRA_CA="y") == before
    assert source(CUDA_ARCHITECTURES="sm_80") != before
    assert source("cpu") != before
    (root / "bench" / "run.py").write_text("new")
    assert source() != before


def test_a_failed_build_shows_the_last_lines_of_its_step(root: Path, daemon: Any) -> None:
    daemon.build_lines = [
        {"stream": "Step 1/2 : FROM debian"},
        {"stream": "of no interest"},
        {"stream": "Step 2/2 : RUN make\n"},
        *({"stream": f"\x1b[91mline {number}\x1b[0m\n"} for number in range(30)),
        {"error": "The command '/bin/sh -c make' returned a non-zero code: 2"},
    ]
    notes: list[str] = []
    with pytest.raises(UserError, match=r"failed at Step 2/2 : RUN make: .* non-zero code: 2"):
        ensure_image(daemon, Recipe("ft", "cpu", root=root), notes.append)
    assert notes[-10:] == [f"  | line {number}" for number in range(20, 30)]


def test_the_library_is_for_ft_alone(root: Path) -> None:
    given = {"FT_LIBRARY": "1", "FT_IMAGE": "pinned"}
    assert given.items() <= Recipe("ft", "cuda", given, root).arguments.items()
    assert Recipe("astra", "cuda", given, root).arguments == {"DEVICE": "cuda"}
    assert Recipe("ft", "cuda", {"FT_IMAGE": "pinned"}, root).arguments == {"DEVICE": "cuda"}


def test_names_and_arguments(root: Path) -> None:
    assert image_system("orca-pow2") == "orca"
    assert image_system("ft") == "ft"
    assert Recipe("astra", "cuda", root=root).name == "sosp23-astra:latest"
    found = parse_build_args(["BASE_IMAGE=a=b", "TORCH_INDEX=", "NO_PROXY=c"])
    assert found == {"BASE_IMAGE": "a=b", "TORCH_INDEX": "", "NO_PROXY": "c"}


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("A", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("a b=1", "NAME=VALUE"),
        ("FT_LIBARY=1", "'FT_LIBARY': did you mean FT_LIBRARY"),
        ("DEVICE=cpu", "--device of bench images"),
    ],
)
def test_a_faulty_build_argument_is_told(word: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse_build_args([word])
