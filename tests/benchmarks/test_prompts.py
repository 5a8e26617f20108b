"""Every way to compute prompts' attention is timed, and says why where it cannot be."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from benchmarks.prompts import time_prompt_attention


def test_each_way_is_timed_or_says_why_not() -> None:
    records = time_prompt_attention(
        "cpu", torch.float32, num_heads=2, head_size=64, prompts=(3, 9, 2)
    )
    assert len(records) == 6
    for record in records:
        if record["implementation"] == "per sequence":
            assert record["device_us"] > 0
            assert record["host_us"] > 0
        else:  # both need a GPU
            assert record["error"]
