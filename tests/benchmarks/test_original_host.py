"""What the original's Python costs, imitated: the script runs and its prices are of one kind."""

from __future__ import annotations

import pytest

from benchmarks import original_host


def test_prices_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    original_host.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == [
        "fork, a logical block of 16",
        "fork, an output token",
        "pickled request, a worker",
    ]
    assert len(lines) == 7


def test_a_fork_copies_deep() -> None:
    inputs = original_host.GroupInputs(3, blocks=2, sequences=4)
    assert list(inputs.block_tables) == [12, 13, 14, 15]
    assert all(len(table) == 2 for table in inputs.block_tables.values())
    assert inputs.context_len == 2 * original_host.BLOCK_SIZE
