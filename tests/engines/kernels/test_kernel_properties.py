"""What holds beyond a tolerance: results do not depend on where a context lies or on the batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from benchmarks import opcheck
from benchmarks.kernel_cases import Target
from benchmarks.opcheck import failed_operations
from engines.core.errors import UserError
from engines.kernels.interface import ContiguousContext, NewTokens, PagedContext
from engines.kernels.swap import SwapSpace

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


def test_swap_space_brings_back_what_it_took(cpu_target: Target) -> None:
    caches = [torch.randn(6, 2, 4, 64) for _ in range(3)]
    before = [cache.clone() for cache in caches]
    space = SwapSpace(caches, 4)
    space.swap_out(torch.tensor([[5, 1], [2, 0]]))
    for cache in caches:
        cache[[5, 2]] = float("nan")
    space.swap_in(torch.tensor([[1, 3], [0, 2]]))
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache[[3, 2]], old[[5, 2]])
        assert torch.equal(cache[[0, 1, 4]], old[[0, 1, 4]])


def test_swap_space_beyond_the_hosts_memory_is_one_line(cpu_target: Target) -> None:
    with pytest.raises(UserError, match=r"no 32768\.0 GiB of host memory .* lower --swap-space"):
        SwapSpace([torch.zeros(1, 2, 4, 64)], 1 << 34)


@pytest.mark.parametrize("target_name", ["cpu_target", "emulated_target", "cuda_target"])
def test_opcheck_passes(target_name: str, request: pytest.FixtureRequest) -> None:
    """Schemas say what is written, and tracing works."""
    target: Target = request.getfixturevalue(target_name)
    assert dict(failed_operations(target.kernels, target.device)) == {}


def test_opcheck_finds_a_schema_that_hides_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation of a test's own that writes into an argument and does not say so."""
    with torch.library._scoped_library("astra_test", "DEF") as library:
        library.define("quiet(Tensor out) -> ()")
        library.impl("quiet", lambda out: out.fill_(1) and None, "CPU")
        quiet = torch.ops.astra_test.quiet.default
        monkeypatch.setattr(opcheck, "OPERATIONS", ("quiet",))
        monkeypatch.setattr(opcheck, "sample_arguments", lambda _: {"quiet": (torch.zeros(3),)})
        kernels = SimpleNamespace(operations={"quiet": quiet})
        assert dict(failed_operations(kernels, "cpu")).keys() == {"quiet"}
