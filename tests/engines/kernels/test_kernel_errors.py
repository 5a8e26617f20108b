"""What the kernels refuse, and that the message names the values."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from kernel_cases import Shape, Target, random_contexts

from engines.kernels.interface import ContiguousContext, NewTokens, PagedContext

FLOAT = Shape(torch.float32, 64, 16)


def _query(shape: Shape, rows: int = 2) -> torch.Tensor:
    return torch.zeros(rows, shape.num_heads, shape.head_size, dtype=shape.dtype)


def _run(target: Target, shape: Shape, context: PagedContext) -> None:
    query = _query(shape)
    target.kernels.paged_attention(torch.empty_like(query), query, context, 1.0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(torch.float32, 72, 16), "float32 with head size 72"),
        (Shape(torch.float16, 64, 16), "no CPU kernel for float16 with head size 64"),
        (Shape(torch.float32, 64, 257), "block size must be from 1 to 256, got 257"),
        (Shape(torch.float32, 64, 16, 4, 3), "4 query heads do not divide into 3"),
        (Shape(torch.float64, 64, 16), "dtype must be float32, float16 or bfloat16"),
    ],
)
def test_unsupported_sizes_are_named(cpu_target: Target, shape: Shape, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        _run(cpu_target, shape, random_contexts(shape, [3, 4], "cpu"))


def test_head_size_72_is_refused_on_an_emulated_device(emulated_target: Target) -> None:
    shape = Shape(torch.float16, 72, 16)
    with pytest.raises(RuntimeError, match="no CUDA kernel for float16 with head size 72"):
        _run(emulated_target, shape, random_contexts(shape, [3, 4], "cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_context_len": 3}, "context length 4 of sequence 1 exceeds"),
        ({"context_lens": torch.tensor([1, 17], dtype=torch.int32)}, "exceeds the 16 slots"),
        ({"context_lens": torch.tensor([1, 2])}, "context_lens must be int32"),
        ({"block_tables": torch.full((2, 1), 9, dtype=torch.int32)}, "names block 9 of 4"),
        ({"block_tables": torch.zeros(3, 1, dtype=torch.int32)}, "has 3 rows for 2"),
        ({"value_cache": torch.zeros(4, 2, 16, 80)}, "value_cache has size 80 in dimension 3"),
        ({"key_cache": torch.zeros(4, 2, 16, 128)[..., ::2]}, "got stride 2 in dimension 3"),
    ],
)
def test_bad_contexts_are_named(
    cpu_target: Target, change: dict[str, torch.Tensor | int], message: str
) -> None:
    context = replace(random_contexts(FLOAT, [3, 4], "cpu"), **change)
    with pytest.raises(RuntimeError, match=message):
        _run(cpu_target, FLOAT, context)


def test_more_queries_than_context_are_named(cpu_target: Target) -> None:
    query, context = _query(FLOAT, 9), random_contexts(FLOAT, [3, 4], "cpu")
    new = NewTokens(torch.tensor([0, 4, 9], dtype=torch.int32), 5)
    with pytest.raises(RuntimeError, match="sequence 0 has 4 queries for a context of 3"):
        cpu_target.kernels.prefix_attention(torch.empty_like(query), query, context, new, 1.0)


def test_queries_left_over_are_named(cpu_target: Target) -> None:
    query, context = _query(FLOAT, 7), random_contexts(FLOAT, [3, 4], "cpu")
    new = NewTokens(torch.tensor([0, 2, 6], dtype=torch.int32), 4)
    with pytest.raises(RuntimeError, match="runs from 0 to 6 for 7 queries"):
        cpu_target.kernels.prefix_attention(torch.empty_like(query), query, context, new, 1.0)


def test_contiguous_context_beyond_its_slots_is_named(cpu_target: Target) -> None:
    query, cache = _query(FLOAT), torch.zeros(2, 2, 8, 64)
    context = ContiguousContext(cache, cache, torch.tensor([8, 9], dtype=torch.int32), 9)
    with pytest.raises(RuntimeError, match="context length 9 of sequence 1 exceeds the 8 slots"):
        cpu_target.kernels.contiguous_attention(torch.empty_like(query), query, context, 1.0)


def test_slot_beyond_the_cache_is_named(cpu_target: Target) -> None:
    token, cache = torch.zeros(1, 2, 64), torch.zeros(3, 2, 4, 64)
    with pytest.raises(RuntimeError, match="slot 12 of token 0 is beyond the cache's 12"):
        cpu_target.kernels.write_kv(token, token, cache, cache, torch.tensor([12]))


def test_blocks_beyond_a_cache_or_pool_are_named(cpu_target: Target) -> None:
    caches, pool = [torch.zeros(3, 2, 4, 64)], torch.zeros(2, 2 * 4 * 64)
    kernels, staging = cpu_target.kernels, torch.empty(0, 2 * 4 * 64)
    with pytest.raises(RuntimeError, match="destination block 3 of pair 0 is not among 3"):
        kernels.copy_blocks(caches, torch.tensor([[0, 3]]))
    with pytest.raises(RuntimeError, match="host block 2 of pair 1 is not among 2"):
        kernels.swap_out(caches, pool, staging, torch.tensor([[0, 0], [1, 2]]))
    with pytest.raises(RuntimeError, match="a row of host_pool has 4096 bytes but one block"):
        kernels.swap_out(caches, torch.zeros(2, 1024), staging, torch.tensor([[0, 0]]))


def test_rows_that_the_norm_cannot_read_are_named(emulated_target: Target) -> None:
    rows, odd, vector = torch.zeros(2, 64), torch.zeros(2, 63), torch.zeros(64)
    add_norm = emulated_target.kernels.add_norm
    with pytest.raises(RuntimeError, match="a row of 252 bytes is no multiple of 16"):
        add_norm(odd.clone(), odd, odd, torch.zeros(63), None, 1e-5)
    with pytest.raises(RuntimeError, match="got 32 weights for 64 columns"):
        add_norm(rows.clone(), rows, rows, vector[:32], None, 1e-5)
    with pytest.raises(RuntimeError, match="must start at a multiple of 16 bytes"):
        add_norm(rows.clone(), rows, rows, torch.zeros(65)[1:], None, 1e-5)
    with pytest.raises(RuntimeError, match="dtypes differ"):
        add_norm(rows.clone(), rows, rows.half(), vector, None, 1e-5)


def test_rows_that_gate_and_rotation_cannot_read_are_named(emulated_target: Target) -> None:
    gate, rotate = emulated_target.kernels.gate, emulated_target.kernels.rotate
    with pytest.raises(RuntimeError, match="got 64 columns of fused for 128 gates and values"):
        gate(torch.zeros(2, 64), torch.zeros(2, 64))
    with pytest.raises(RuntimeError, match="a row of 12 bytes is no multiple of 16"):
        gate(torch.zeros(2, 3), torch.zeros(2, 6))
    heads, angles = torch.zeros(2, 4, 64), torch.zeros(2, 32)
    with pytest.raises(RuntimeError, match="got 3 rows of cos for 2 rows of heads"):
        rotate(heads, torch.zeros(3, 32), torch.zeros(3, 32))
    with pytest.raises(RuntimeError, match="got 32 angles, twice, for 64 elements of a head"):
        rotate(heads, angles[:, :16].contiguous(), angles[:, :16].contiguous())
    with pytest.raises(RuntimeError, match="dtypes differ"):
        rotate(heads, angles.half(), angles.half())
