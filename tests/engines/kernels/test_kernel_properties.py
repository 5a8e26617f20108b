"""What holds beyond a tolerance: results do not depend on where a context lies or on the batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from kernel_cases import Target

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.kernels import swap
from engines.kernels.interface import (
    OPERATIONS,
    ContiguousContext,
    NewTokens,
    PagedContext,
)
from engines.kernels.reference import ReferenceKernels

LENGTHS = (1, 15, 200, 97)


def _lengths() -> torch.Tensor:
    return torch.tensor(LENGTHS, dtype=torch.int32)


def _contiguous(dtype: torch.dtype) -> ContiguousContext:
    keys, values = (torch.randn(4, 2, 256, 64).to(dtype) for _ in range(2))
    return ContiguousContext(keys, values, _lengths(), 200)


def _in_blocks(context: ContiguousContext, block_size: int) -> PagedContext:
    """Lay the same tokens out in blocks."""

    def cut(cache: torch.Tensor) -> torch.Tensor:
        sequences, heads, _, size = cache.shape
        padded = torch.nn.functional.pad(cache, (0, 0, 0, -cache.shape[2] % block_size))
        blocks = padded.view(sequences, heads, -1, block_size, size)
        return blocks.transpose(1, 2).flatten(0, 1).contiguous()

    keys, values = cut(context.key_cache), cut(context.value_cache)
    tables = torch.arange(len(keys), dtype=torch.int32).view(len(context.context_lens), -1)
    return PagedContext(keys, values, tables, context.context_lens, context.max_context_len)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_results_are_the_same_bits_in_any_layout(
    cpu_target: Target, dtype: torch.dtype
) -> None:
    """Block sizes, the contiguous cache and prompt attention agree exactly: so do tokens."""
    context = _contiguous(dtype)
    query = torch.randn(4, 4, 64).to(dtype)
    expected = torch.empty_like(query)
    cpu_target.kernels.contiguous_attention(expected, query, context, 0.125)
    for block_size in (1, 3, 16, 128, 256):
        paged = _in_blocks(context, block_size)
        out = torch.empty_like(query)
        cpu_target.kernels.paged_attention(out, query, paged, 0.125)
        assert torch.equal(out, expected), f"block size {block_size}"
        new = NewTokens(torch.arange(5, dtype=torch.int32), 1)
        cpu_target.kernels.prefix_attention(out.zero_(), query, paged, new, 0.125)
        assert torch.equal(out, expected), f"as prompts, block size {block_size}"


def test_cpu_results_are_the_same_bits_in_any_batch(cpu_target: Target) -> None:
    context, query = _contiguous(torch.float32), torch.randn(4, 4, 64)
    together = torch.empty_like(query)
    cpu_target.kernels.contiguous_attention(together, query, context, 0.125)
    for i in range(4):
        keys, values = context.key_cache[i : i + 1], context.value_cache[i : i + 1]
        own = ContiguousContext(keys, values, context.context_lens[i : i + 1], 200)
        alone = torch.empty(1, 4, 64)
        cpu_target.kernels.contiguous_attention(alone, query[i : i + 1], own, 0.125)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(("heads", "kv_heads"), [(40, 40), (12, 12), (9, 3), (32, 2), (64, 1)])
def test_cpu_results_do_not_depend_on_how_heads_are_shared_out(
    cpu_target: Target, heads: int, kv_heads: int
) -> None:
    """A crowd's threads take many heads of a sequence at once, a lone sequence's a few each."""
    count, blocks = 24, 13
    keys, values = torch.randn(2, count * blocks, kv_heads, 16, 64).unbind()
    tables = torch.randperm(count * blocks, dtype=torch.int32).view(count, blocks)
    lens = torch.randint(0, 16 * blocks + 1, (count,), dtype=torch.int32)
    query = torch.randn(count, heads, 64)

    def attend(rows: slice) -> torch.Tensor:
        out = torch.empty_like(query[rows])
        context = PagedContext(keys, values, tables[rows], lens[rows], 16 * blocks)
        cpu_target.kernels.paged_attention(out, query[rows], context, 0.125)
        return out

    together = attend(slice(None))
    for i in range(count):
        assert torch.equal(attend(slice(i, i + 1))[0], together[i])


def test_large_scores_do_not_overflow(cpu_target: Target) -> None:
    context, query = _contiguous(torch.float32), torch.randn(4, 4, 64)
    out = torch.empty_like(query)
    cpu_target.kernels.contiguous_attention(out, query, context, 1e4)
    assert out.isfinite().all()


def test_nothing_is_done_for_an_empty_batch(cpu_target: Target) -> None:
    query, cache = torch.empty(0, 4, 64), torch.zeros(2, 2, 16, 64)
    tables, lens = torch.empty(0, 1, dtype=torch.int32), torch.empty(0, dtype=torch.int32)
    context = PagedContext(cache, cache, tables, lens, 0)
    cpu_target.kernels.paged_attention(query.clone(), query, context, 1.0)
    none = torch.empty(0, 2, dtype=torch.int64)
    cpu_target.kernels.copy_blocks([cache], none)


def test_swap_space_brings_back_what_it_took(
    cpu_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks a slab: what is moved is in all three slabs."""
    monkeypatch.setattr(swap, "SLAB_BYTES", 2 * 3 * 2 * 4 * 64 * 4 + 1)
    caches = [torch.randn(7, 2, 4, 64) for _ in range(3)]
    before = [cache.clone() for cache in caches]
    space = swap.SwapSpace(cpu_target.kernels, caches, 5)
    space.swap_out(torch.tensor([[5, 4], [2, 0], [6, 3]]))
    for cache in caches:
        cache[[5, 2, 6]] = float("nan")
    space.swap_in(torch.tensor([[4, 3], [0, 2], [3, 1]]))
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache[[3, 2, 1]], old[[5, 2, 6]])
        assert torch.equal(cache[[0, 4]], old[[0, 4]])


class PowersOfTwo:
    """Allocates as PyTorch pins memory, of which it has some."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes
        self.sizes: list[int] = []

    def __call__(self, rows: int, row: int, cache: torch.Tensor) -> torch.Tensor:
        self.sizes.append(1 << (rows * row * cache.dtype.itemsize - 1).bit_length())
        if sum(self.sizes) > self.free_bytes:
            raise RuntimeError("CUDA error: out of memory")
        return torch.empty(rows, row, dtype=cache.dtype, device="meta")


@pytest.mark.parametrize("limit", [0, 1000, GIB - 1, GIB, 5 * GIB // 2, 20 * GIB + 123])
@pytest.mark.parametrize("row_bytes", [4096, 13_107_200, 209_715_200, 5 * GIB // 4])
def test_what_is_pinned_stays_within_the_limit(
    limit: int, row_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of OPT-13B among them: 16 slots and 256 slots."""
    usable = swap.usable_bytes(limit, row_bytes)
    assert usable % row_bytes == 0
    cache, memory = torch.empty(1, row_bytes // 4, device="meta"), PowersOfTwo(limit)
    monkeypatch.setattr(swap, "_allocate", memory)
    swap.SwapSpace(ReferenceKernels(), [cache], usable // row_bytes)
    assert all(size <= GIB or size < 2 * row_bytes for size in memory.sizes)
    if row_bytes < GIB:
        assert usable > limit / 2 - row_bytes
        assert limit < GIB or row_bytes > 2**24 or usable > 0.94 * (limit - limit % GIB)


def test_swap_space_beyond_the_hosts_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "_allocate", PowersOfTwo(3 * GIB))
    with pytest.raises(UserError, match=r"no 4\.0 GiB of host memory .* lower --swap-space"):
        swap.SwapSpace(ReferenceKernels(), [torch.zeros(1, 2, 4, 64)], 1 << 21)


def opcheck(operation: Callable[..., None], arguments: tuple[object, ...]) -> None:
    """Raise where torch finds that the schema hides a write, or that tracing fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own checks
        torch.library.opcheck(operation, arguments)


def _arguments(device: str) -> dict[str, tuple[object, ...]]:
    """Small arguments for every operation."""
    query, cache = torch.randn(2, 4, 64, device=device), torch.randn(3, 2, 16, 64, device=device)

    def integers(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    tables, lens = integers(0, 1, 2, 0).view(2, 2), integers(20, 16)
    attention = (torch.empty_like(query), query, cache, cache.clone())
    contiguous = (torch.empty_like(query), query, cache[:2], cache[1:].clone(), None)
    new = [torch.randn(3, 2, 64, device=device) for _ in "kv"]
    slots = torch.tensor([0, -1, 40], device=device)
    rows = [torch.randn(3, 64, device=device) for _ in range(3)]
    caches, pairs = [cache.clone(), cache.clone()], torch.tensor([[1, 0]])
    pool, staging = torch.randn(2, 4096), torch.empty(1, 4096, device=device)
    return {
        "paged_attention": (*attention, tables, lens, 0.1, 20),
        "contiguous_attention": (*contiguous, lens - 5, 0.1, 15),
        "prefix_attention": (*attention, tables, lens, integers(0, 1, 2), 0.1, 1, 20),
        "write_kv": (*new, cache.clone(), cache.clone(), slots),
        "add_norm": (*rows, rows[0][0].clone(), rows[1][0].clone(), 1e-5),
        "gate": (rows[0][:, :32].clone(), rows[1]),
        "rotate": (query, *(torch.randn(2, 32, device=device) for _ in "cs")),
        "copy_blocks": (caches, pairs),
        "swap_out": (caches, pool, staging, pairs),
        "swap_in": (caches, pool, staging, pairs.flip(1)),
    }


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "kind",
    ["cpu_target", "emulated_target", pytest.param("cuda_target", marks=pytest.mark.gpu)],
)
def test_schemas_say_what_is_written_and_tracing_works(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    target: Target = request.getfixturevalue(kind)
    opcheck(target.kernels.operations[name], _arguments(target.device)[name])


def test_opcheck_finds_a_schema_that_hides_a_write() -> None:
    """An operation of a test's own that writes into an argument and does not say so."""

    def write(out: torch.Tensor) -> None:
        out.fill_(1)

    with torch.library._scoped_library("astra_test", "DEF") as library:
        library.define("quiet(Tensor out) -> ()")
        library.impl("quiet", write, "CPU")
        with pytest.raises(Exception, match="not defined as mutable but was mutated"):
            opcheck(torch.ops.astra_test.quiet.default, (torch.zeros(3),))
