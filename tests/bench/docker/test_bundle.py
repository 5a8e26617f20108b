from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_docker import checkout

from bench.docker import bundle
from bench.docker.bundle import load_images, verify_sums, write_bundle
from bench.docker.images import Image
from engines.core.errors import UserError

IMAGES = [
    Image("sosp23-astra:cpu", "sha256:1", "s1", 5),
    Image("sosp23-ft:cpu", "sha256:2", "s2", 6),
]
KEPT = ("results/sim/a/point.json", "kernels/attention-cpu/kernels.json", "scale-cpu.json",
        "figures/fig1.png", "report/index.html")  # fmt: skip


class FakeClient:
    """A daemon that saves what it is asked for and loads what `loads` names."""

    def __init__(self) -> None:
        self.loads = [image.image_id for image in IMAGES]
        self.asked: list[Any] = []
        self.api = SimpleNamespace(
            base_url="http+docker://x", api_version="1.41", timeout=60, get=self._get
        )
        self.images = SimpleNamespace(load=self._load)

    def _get(self, url: str, params: Any, **_: Any) -> Any:
        assert url == "http+docker://x/v1.41/images/get"
        self.asked.append(params)
        return SimpleNamespace(
            raise_for_status=lambda: None, iter_content=lambda _: iter([b"layers ", b"of images"])
        )

    def _load(self, archive: Any) -> list[Any]:
        assert archive.read() == b"layers of images"
        assert self.api.timeout is None, "large images take longer than any other answer"
        return [SimpleNamespace(id=found) for found in self.loads]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for name in (*KEPT, "bundle2/x"):
        path = tmp_path / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "artifacts"


def write(client: FakeClient, artifacts: Path) -> Path:
    """A bundle of a checkout, of which all but one file is tracked, in a new folder."""
    folder, root = artifacts.parent / "bundle", artifacts.parent / "checkout"
    if not root.exists():
        git = ["git", "-C", str(checkout(root))]
        subprocess.run([*git, "init", "--quiet"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        (root / "untracked").touch()
    write_bundle(client, folder, IMAGES, root=root, artifacts=artifacts)  # type: ignore[arg-type]
    return folder


def names_in(path: Path) -> set[str]:
    with tarfile.open(fileobj=gzip.open(path)) as tar:
        return set(tar.getnames())


def test_a_bundle_holds_all_and_verifies(client: FakeClient, artifacts: Path) -> None:
    folder = write(client, artifacts)
    assert client.asked == [{"names": ["sosp23-astra:cpu", "sosp23-ft:cpu"]}]
    assert names_in(folder / "results.tar.gz") == set(KEPT)
    sources = names_in(folder / "sources.tar.gz")
    assert {"Dockerfile.ft", "engines/core.py", "containers/locks/cpu.txt"} <= sources
    assert "untracked" not in sources
    assert verify_sums(folder) == len(list(folder.rglob("*.*"))) == 6
    assert load_images(client, folder) == IMAGES  # type: ignore[arg-type]
    assert client.api.timeout == 60
    assert json.loads((folder / "manifest.json").read_text())["images"][0]["image_id"] == "sha256:1"
    with pytest.raises(UserError, match="exists already"):  # never written over
        write(client, artifacts)


def test_nothing_is_left_of_a_bundle_that_fails(
    client: FakeClient, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_save", fail)
    with pytest.raises(UserError, match="no space left"):
        write(client, artifacts)
    assert not (artifacts.parent / "bundle").exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "images.tar").write_bytes(b"x"), "does not match its checksum"),
        (lambda folder: (folder / "images.tar").unlink(), "is missing from"),
        (lambda folder: (folder / "more").touch(), "does not belong to"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "is no bundle"),
    ],
)
def test_damage_is_found(client: FakeClient, artifacts: Path, damage: Any, why: str) -> None:
    folder = write(client, artifacts)
    damage(folder)
    with pytest.raises(UserError, match=why):
        verify_sums(folder)


def test_other_images_than_the_list_says_are_refused(client: FakeClient, artifacts: Path) -> None:
    folder = write(client, artifacts)
    client.loads = ["sha256:1", "sha256:3"]
    with pytest.raises(UserError, match=r"holds another sosp23-ft:cpu than manifest\.json says"):
        load_images(client, folder)  # type: ignore[arg-type]
