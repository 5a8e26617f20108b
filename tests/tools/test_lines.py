"""The script that counts lines."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engines.core.errors import UserError
from tools.lines import count


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    texts = {
        "a/one.py": "x = 1\n\n# why\nx = 1\n  y = 2  # also\n",
        "b/copy.py": "x = 1\n",
        "b/kernel.cu": "x = 1\n// why\n#define N 1\n",
        "b/notes.md": "text\n",
        "given/old.py": "z = 3\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for words in (("init", "-q"), ("add", ".")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "a" / "untracked.py").write_text("z = 3\n")
    return tmp_path


def test_code_of_tracked_files_is_counted_by_folder(checkout: Path) -> None:
    found = count(checkout, skip=["given"])
    seen = {name: (c.files, c.lines, len(c.distinct)) for name, c in found.items()}
    assert seen == {"a": (1, 3, 2), "b": (2, 3, 3), "all": (3, 6, 4)}


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no git checkout"):
        count(tmp_path)
