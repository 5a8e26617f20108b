"""Memory, devices and graph sizes."""

from __future__ import annotations

from typing import NoReturn

import pytest
import torch
from real_serving import MAX_LEN, checkpoint, engine_over, request

from engines.core.config import GIB, EngineConfig, System
from engines.core.errors import UserError
from engines.execution import kv_cache, setup
from engines.execution.setup import load
from engines.sim.slots import UTILISATION, WORKSPACE_BYTES, activation_bytes


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


def test_swap_space_is_allocated_with_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the step that swaps first, whose time would count."""
    made = []
    monkeypatch.setattr(
        kv_cache, "SwapSpace", lambda _kernels, _caches, blocks: made.append(blocks)
    )
    config = EngineConfig(system=System.ASTRA, num_slots=1024, swap_slots=4096)
    checkpoint("opt").loaded.executor(config)
    assert made == [4096 // 16]


def test_swap_space_counts_what_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 GiB half is free to use: three slabs of 1 GiB and one of 512 MiB."""
    monkeypatch.setattr(setup, "free_memory_bytes", lambda _: 7 * GIB)
    loaded = checkpoint("opt").loaded
    block_bytes = 16 * loaded.shape.slot_bytes
    assert loaded.swap_bytes(GIB, 16) == GIB
    assert loaded.swap_bytes(100 * GIB, 16) == 7 * GIB // 2 // block_bytes * block_bytes
    large = 100 * loaded.shape.slot_bytes  # of which no whole number is a power of two
    assert loaded.swap_bytes(100 * GIB, 100) == (3 * (GIB // large) + GIB // 2 // large) * large


def test_running_out_of_memory_in_a_step_says_what_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = checkpoint("opt")

    def exhausted(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    engine = engine_over(pair, EngineConfig(system=System.ASTRA, num_slots=1024))
    engine.add_request(request(0, (5, 17, 3), 4))
    monkeypatch.setattr(pair.loaded.model, "forward", exhausted)
    with pytest.raises(UserError) as caught:
        engine.step()
    assert str(caught.value) == (
        "cpu ran out of memory in a step of 3 tokens, beside a KV cache of 1024 slots: lower "
        "--kv-slots to 1019 or fewer, or --max-batched-tokens below 3"
    )


def test_tables_for_too_many_sequences_are_one_line() -> None:
    config = EngineConfig(system=System.ASTRA, num_slots=1024, max_num_seqs=10**14)
    with pytest.raises(UserError, match=r"100,000,000,000,000 sequences: lower --max-num-seqs"):
        checkpoint("opt").loaded.executor(config)


def test_running_out_of_memory_while_loading_says_what_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*_: object, **__: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    monkeypatch.setattr("engines.models.load.Builder", exhausted)
    with pytest.raises(UserError, match=r"opt-1\.3b in float32 needs 4\.9 GiB.*is opt-350m\)"):
        load("opt-1.3b", device="cpu")
