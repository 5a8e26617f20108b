"""Numbers on the benchmarks' command lines are read as `bench` reads them, errors are one line."""

from __future__ import annotations

import pytest

from benchmarks import models
from benchmarks.gpu_check import read_arguments


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_arguments(["--only", "sleep"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: argument --only: invalid choice: 'sleep'")


@pytest.mark.parametrize("number", ["0", "007", "1_0", "\u0663", "9" * 5000])
def test_counts_are_whole_numbers(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        models.main(["--rounds", number])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
