"""Memory, devices and graph sizes."""

from __future__ import annotations

import pytest
from real_serving import MAX_LEN, checkpoint

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.execution.graphs import padded_context, padded_rows
from engines.execution.memory import UTILISATION, WORKSPACE_BYTES, activation_bytes
from engines.execution.setup import load, parse_size


def test_slots_follow_from_the_memory_that_a_smaller_device_would_have() -> None:
    loaded = checkpoint("opt").loaded
    tokens = 512
    slots = loaded.default_slots(gpu_memory_bytes=2 * GIB, max_batched_tokens=tokens)
    fixed = WORKSPACE_BYTES + activation_bytes(loaded.spec, 1, tokens)
    left = UTILISATION * 2 * GIB - fixed - loaded.model.weight_bytes
    assert loaded.shape.slot_bytes == 2 * 2 * 2 * 64 * 4  # two tensors, two layers, two heads
    assert slots == int(left) // loaded.shape.slot_bytes
    with pytest.raises(UserError, match="leaves no memory for a KV cache"):
        loaded.default_slots(gpu_memory_bytes=GIB, max_batched_tokens=tokens)


def test_slots_hold_the_keys_of_kv_heads_only() -> None:
    grouped, full = checkpoint("llama").loaded, checkpoint("opt").loaded
    assert 2 * grouped.shape.slot_bytes == full.shape.slot_bytes
    assert grouped.spec.max_positions == MAX_LEN


@pytest.mark.parametrize(
    ("text", "size"), [("40GiB", 40 * GIB), ("1.5GiB", 3 * GIB // 2), ("2GB", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["40", "GiB", "-1GiB", "0GiB", "infGiB", "nanGiB", "40 Gi"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UserError, match="is not understood"):
        parse_size(text)


def test_types_that_the_cpu_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="float16 needs --backend cuda"):
        load(str(checkpoint("opt").directory), device="cpu", dtype="float16")


def test_graphs_are_padded_to_few_sizes() -> None:
    sizes = [padded_rows(count) for count in range(1, 513)]
    assert all(size >= count for count, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 20
    assert all(padded_rows(size) == size for size in sizes)
    bounds = [padded_context(longest) for longest in range(1, 2049)]
    assert all(bound >= longest for longest, bound in enumerate(bounds, 1))
    assert set(bounds) == {256, 512, 1024, 2048}
