"""The examples of docs/extending.md work as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from small_tokenizer import write_sharegpt, write_tokenizer

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"


class Block(NamedTuple):
    """A fenced block: its language, the file that it is (or ""), and its text."""

    language: str
    file: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    return [Block(*groups) for groups in found]


def scripts() -> list[str]:
    return [block.text for block in blocks() if block.language == "sh"]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for block in blocks():
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    return tmp_path


@pytest.mark.parametrize("script", scripts())
def test_commands_run(script: str, folder: Path) -> None:
    """One after the other: some read what others wrote."""
    if "--tokenizer" in script:
        pytest.importorskip("transformers")
        write_sharegpt(folder / "sharegpt.json")
        write_tokenizer(folder / "tokenizer")
    for command in script.splitlines():
        printed = run(shlex.split(command), folder)
        told = "mean_normalized_latency_s" if command.startswith("bench run") else r"\d|\.csv"
        assert re.search(told, printed)


def test_the_program_runs(folder: Path) -> None:
    (program,) = [b.text for b in blocks() if b.language == "python"]
    printed = run([sys.executable, "-W", "error", "-c", program], folder)
    assert re.search(r"\d", printed)


def test_linked_files_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", DOCUMENT.read_text()):
        assert (DOCUMENT.parent / path).exists(), path
