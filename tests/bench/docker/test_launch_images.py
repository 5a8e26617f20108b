from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from fake_docker import FakeDaemon, checkout

from bench.docker.context import lock_hash, pack
from bench.docker.images import CPU_BASE, Images, ImageState, Recipe, image_system, parse_build_args
from engines.core.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return checkout(tmp_path / "checkout")


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon(lambda *_: [])


def test_an_image_is_missing_then_fresh_then_stale(root: Path, daemon: FakeDaemon) -> None:
    images = Images(daemon, root=root, build_args={})  # type: ignore[arg-type]
    recipe = images.recipe("astra", "cpu")
    assert images.state(recipe) is ImageState.MISSING
    notes: list[str] = []
    first = images.ensure(recipe, notes.append)
    assert images.state(recipe) is ImageState.FRESH
    assert notes == ["sosp23-astra:cpu is missing: building it",
                     "sosp23-astra:cpu: Step 1/1 : FROM scratch"]  # fmt: skip
    assert images.ensure(recipe, notes.append) == first
    assert len(daemon.builds) == 1
    (root / "engines" / "core.py").write_text("changed\n")
    assert images.state(recipe) is ImageState.STALE
    assert images.ensure(recipe, notes.append) != first
    assert daemon.removed_images == [first.image_id]


def test_a_build_gets_its_sources_labels_and_defaults(root: Path, daemon: FakeDaemon) -> None:
    images = Images(daemon, root=root, build_args={"PIP_INDEX_URL": "https://mirror"})  # type: ignore[arg-type]
    recipe = images.recipe("orca", "cpu")
    images.build(recipe, lambda _: None)
    (build,) = daemon.builds
    assert build["tag"] == "sosp23-orca:cpu"
    assert build["dockerfile"] == "Dockerfile.orca"
    arguments = build["buildargs"]
    assert arguments["BASE_IMAGE"] == CPU_BASE
    assert arguments["DEVICE"] == "cpu"
    assert arguments["PIP_INDEX_URL"] == "https://mirror"
    assert arguments["SOURCE_SHA256"] == recipe.source(root)
    assert arguments["LOCK_SHA256"] == lock_hash("cpu", root)
    with tarfile.open(fileobj=build["fileobj"]) as tar:
        names = tar.getnames()
    assert {"Dockerfile.orca", "csrc/a.cu", "containers/extra/none.crt"} <= set(names)
    assert "Dockerfile.astra" not in names


def test_only_what_is_in_an_image_makes_it_stale(root: Path) -> None:
    recipe = Recipe("astra", "cuda")
    before = recipe.source(root)
    for name in ("README.md", "Dockerfile.ft", "containers/extra/mine.whl", "bench/x.so",
                 "engines/__pycache__/core.pyc"):  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("new")
    assert recipe.source(root) == before
    assert Recipe("astra", "cuda", {"PIP_INDEX_URL": "x", "EXTRA_CA": "y"}).source(root) == before
    assert Recipe("astra", "cuda", {"CUDA_ARCHITECTURES": "sm_80"}).source(root) != before
    assert Recipe("astra", "cpu").source(root) != before
    (root / "bench" / "run.py").write_text("new")
    assert recipe.source(root) != before


def test_the_context_is_the_same_whenever_and_whoever_packs_it(root: Path) -> None:
    once = pack("astra", root).getvalue()
    (root / "setup.py").touch()
    assert pack("astra", root).getvalue() == once
    authority = root / "ca.pem"
    authority.write_text("certificate")
    with tarfile.open(fileobj=pack("astra", root, extra_ca=authority)) as tar:
        assert tar.extractfile("containers/extra/ca.crt").read() == b"certificate"  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"cannot read .*none\.pem"):
        pack("astra", root, extra_ca=root / "none.pem")


def test_a_failed_build_shows_the_last_lines_of_its_step(root: Path, daemon: FakeDaemon) -> None:
    daemon.build_lines = [
        {"stream": "Step 1/2 : FROM debian"},
        {"stream": "of no interest"},
        {"stream": "Step 2/2 : RUN make\n"},
        *({"stream": f"\x1b[91mline {number}\x1b[0m\n"} for number in range(30)),
        {"error": "The command '/bin/sh -c make' returned a non-zero code: 2"},
    ]
    notes: list[str] = []
    images = Images(daemon, root=root, build_args={})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"failed at Step 2/2 : RUN make: .* non-zero code: 2"):
        images.ensure(images.recipe("ft", "cpu"), notes.append)
    assert notes[-10:] == [f"  | line {number}" for number in range(20, 30)]


def test_the_library_is_for_ft_alone() -> None:
    given = parse_build_args(["FT_LIBRARY=1", "FT_IMAGE=pinned"])
    images = Images(None, build_args=given)  # type: ignore[arg-type]
    assert given.items() <= images.recipe("ft", "cuda").arguments.items()
    assert images.recipe("astra", "cuda").arguments == {"DEVICE": "cuda"}
    without = Images(None, build_args={"FT_IMAGE": "pinned"})  # type: ignore[arg-type]
    assert without.recipe("ft", "cuda").arguments == {"DEVICE": "cuda"}


def test_names_and_arguments() -> None:
    assert image_system("orca-pow2") == "orca"
    assert image_system("ft") == "ft"
    assert Recipe("astra", "cuda").name == "sosp23-astra:latest"
    found = parse_build_args(["BASE_IMAGE=a=b", "TORCH_INDEX=", "NO_PROXY=c"])
    assert found == {"BASE_IMAGE": "a=b", "TORCH_INDEX": "", "NO_PROXY": "c"}
    for word in ("A", "=1", "a b=1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            parse_build_args([word])
    with pytest.raises(UserError, match="'FT_LIBARY': did you mean FT_LIBRARY"):
        parse_build_args(["FT_LIBARY=1"])
    with pytest.raises(UserError, match="--device of bench images"):
        parse_build_args(["DEVICE=cpu"])
    with pytest.raises(UserError, match="unknown device of an image 'gpu'"):
        Recipe("astra", "gpu")
