"""The README says what the registry says, and its commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_figures_is_the_registrys() -> None:
    marked = re.search(r"<!-- figures:[^\n]*-->\n(.*?)\n<!-- end of figures -->", README, re.S)
    assert marked is not None
    printed = CliRunner().invoke(main, ["figures", "--markdown"])
    assert printed.exit_code == 0
    assert marked[1].strip() == printed.output.strip()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z0-9-]+)", README))))
def test_make_knows_every_target_of_the_readme(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_linked_file_exists(path: str) -> None:
    assert (ROOT / path).exists()
