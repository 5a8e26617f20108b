"""Random inputs for the kernels, poisoned wherever a kernel must not look, with their errors.

Each case computes an operation and its float64 reference on the same data and returns the largest
relative error: the error of a head's output vector over that vector's largest entry. Slots that
hold no token are NaN, as are outputs before the call, and unused entries of block tables point
nowhere, so whatever reads or leaves them shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.kernels.interface import ContiguousContext, Kernels, NewTokens, PagedContext
from engines.kernels.reference import ReferenceKernels

REFERENCE: Kernels = ReferenceKernels()
NOWHERE = 1 << 30  # an entry of a block table that must not be followed


@dataclass(frozen=True)
class Target:
    """The operations under test and where their tensors live."""

    kernels: Kernels
    device: str


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention's tensors."""

    dtype: torch.dtype
    head_size: int
    block_size: int
    num_heads: int = 4
    num_kv_heads: int = 2

    @property
    def scale(self) -> float:
        """The usual factor on scores."""
        return float(self.head_size**-0.5)

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        heads = f"{self.num_heads}/{self.num_kv_heads} heads"
        return f"{name} head {self.head_size} block {self.block_size} {heads}"


def relative_error(out: Tensor, expected: Tensor) -> float:
    """Return the largest error of a vector (last dimension) over its largest entry."""
    if out.numel() == 0:
        return 0.0
    error = (out.double() - expected).abs().amax(-1)
    size = expected.abs().amax(-1)
    relative = torch.where(error == 0, error, error / size)
    return float("inf") if relative.isnan().any() else float(relative.max())


def random_contexts(shape: Shape, lengths: Sequence[int], device: str) -> PagedContext:
    """Scatter contexts over blocks in random order; every slot without a token is NaN."""
    counts = [-(-length // shape.block_size) for length in lengths]
    num_blocks = sum(counts) + 2
    size = (num_blocks, shape.num_kv_heads, shape.block_size, shape.head_size)
    keys = torch.randn(size, dtype=torch.float32).to(shape.dtype)
    values = torch.randn(size, dtype=torch.float32).to(shape.dtype)
    used = torch.zeros(num_blocks, shape.block_size, dtype=torch.bool)
    order = torch.randperm(num_blocks).tolist()
    wide = torch.full((len(lengths), 2 * max(1, *counts) + 3), NOWHERE, dtype=torch.int32)
    tables = wide[:, 2 : 2 + max(1, *counts)]
    for i, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        blocks = [order.pop() for _ in range(count)]
        tables[i, :count] = torch.tensor(blocks, dtype=torch.int32)
        for j, block in enumerate(blocks):
            used[block, : length - j * shape.block_size] = True
    unused = ~used[:, None, :, None].expand(size)
    keys[unused] = float("nan")
    values[unused] = float("nan")
    moved = wide.to(device)[:, 2 : 2 + max(1, *counts)]
    lens = torch.tensor(lengths, dtype=torch.int32, device=device)
    return PagedContext(keys.to(device), values.to(device), moved, lens, max(lengths))


def strided_queries(shape: Shape, num_queries: int, device: str) -> Tensor:
    """Return queries [num_queries, heads, size] as a view of a fused projection."""
    width = shape.num_heads * shape.head_size
    fused = torch.randn(num_queries, 3 * width, dtype=torch.float32).to(shape.dtype).to(device)
    return fused[:, width : 2 * width].view(num_queries, shape.num_heads, shape.head_size)


def _outputs(query: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(query, float("nan")), torch.empty(query.shape, dtype=torch.float64)


def _exact(context: PagedContext) -> PagedContext:
    """Return the context in float64 on the host."""
    keys, values = context.key_cache.double().cpu(), context.value_cache.double().cpu()
    tables, lengths = context.block_tables.cpu(), context.context_lens.cpu()
    return PagedContext(keys, values, tables, lengths, context.max_context_len)


def paged_error(target: Target, shape: Shape, lengths: Sequence[int]) -> float:
    """Run paged decode attention over contexts of the given lengths."""
    context = random_contexts(shape, lengths, target.device)
    query = strided_queries(shape, len(lengths), target.device)
    out, expected = _outputs(query)
    target.kernels.paged_attention(out, query, context, shape.scale)
    REFERENCE.paged_attention(expected, query.double().cpu(), _exact(context), shape.scale)
    return relative_error(out.cpu(), expected)


def prefix_error(
    target: Target, shape: Shape, lengths: Sequence[int], queries: Sequence[int]
) -> float:
    """Run prompt attention: the last queries[i] of lengths[i] tokens are new."""
    context = random_contexts(shape, lengths, target.device)
    query = strided_queries(shape, sum(queries), target.device)
    out, expected = _outputs(query)
    starts = torch.tensor([0, *queries]).cumsum(0).int()
    new = NewTokens(starts.to(target.device), max(queries))
    target.kernels.prefix_attention(out, query, context, new, shape.scale)
    new = NewTokens(starts, max(queries))
    REFERENCE.prefix_attention(expected, query.double().cpu(), _exact(context), new, shape.scale)
    return relative_error(out.cpu(), expected)


def contiguous_error(
    target: Target, shape: Shape, ends: Sequence[int], starts: Sequence[int] | None
) -> float:
    """Run contiguous decode attention over slots starts[i] to ends[i]; block size = max_len."""
    size = (len(ends), shape.num_kv_heads, shape.block_size, shape.head_size)
    first = [0] * len(ends) if starts is None else list(starts)
    caches = [torch.full(size, float("nan"), dtype=shape.dtype) for _ in range(2)]
    for cache in caches:
        for i, (start, end) in enumerate(zip(first, ends, strict=True)):
            if end > start:
                part = cache[i, :, start:end]
                part.copy_(torch.randn(part.shape, dtype=torch.float32))
    query = strided_queries(shape, len(ends), target.device)
    out, expected = _outputs(query)
    lens = torch.tensor(ends, dtype=torch.int32)
    offsets = None if starts is None else torch.tensor(starts, dtype=torch.int32)
    keys, values = (cache.to(target.device) for cache in caches)
    moved = None if offsets is None else offsets.to(target.device)
    context = ContiguousContext(keys, values, lens.to(target.device), max(ends), moved)
    target.kernels.contiguous_attention(out, query, context, shape.scale)
    exact = ContiguousContext(caches[0].double(), caches[1].double(), lens, max(ends), offsets)
    REFERENCE.contiguous_attention(expected, query.double().cpu(), exact, shape.scale)
    return relative_error(out.cpu(), expected)


def norm_error(target: Target, shape: Shape, num_rows: int, biased: bool) -> float:
    """Add and normalise rows as wide as all heads; infinite where the sum is not exact."""
    width = shape.num_heads * shape.head_size
    x, delta = (torch.randn(num_rows, width).mul_(3).add_(1).to(shape.dtype) for _ in range(2))
    weight, bias = (torch.randn(width).to(shape.dtype) for _ in range(2))
    total, out = (x + delta).double(), torch.full_like(x, float("nan")).to(target.device)
    residual = x.to(target.device)  # on a CPU the same memory
    vector, shift = weight.to(target.device), bias.to(target.device) if biased else None
    target.kernels.add_norm(out, residual, delta.to(target.device), vector, shift, 1e-5)
    expected = torch.empty(num_rows, width, dtype=torch.float64)
    exact_bias = bias.double() if biased else None
    zero = torch.zeros_like(total)
    REFERENCE.add_norm(expected, total.clone(), zero, weight.double(), exact_bias, 1e-5)
    exact = torch.equal(residual.cpu().double(), total)
    return relative_error(out.cpu(), expected) if exact else float("inf")


def gate_error(target: Target, shape: Shape, num_rows: int) -> float:
    """Gate rows as wide as all heads, with gates at which an exponential over- or underflows."""
    width = shape.num_heads * shape.head_size
    fused = torch.randn(num_rows, 2 * width).mul_(4)
    fused[0, :4] = torch.tensor([-100.0, 100.0, -0.0, -20.0])
    fused = fused.to(shape.dtype)
    out = torch.full((num_rows, width), float("nan"), dtype=shape.dtype, device=target.device)
    target.kernels.gate(out, fused.to(target.device))
    expected = torch.empty(num_rows, width, dtype=torch.float64)
    REFERENCE.gate(expected, fused.double())
    return relative_error(out.cpu(), expected)


def rotation_error(target: Target, shape: Shape, num_rows: int) -> float:
    """Rotate heads within a wider row; infinite where their neighbours change."""
    width = shape.num_heads * shape.head_size
    fused = torch.randn(num_rows, 2 * width).to(shape.dtype)
    angles = torch.randn(num_rows, shape.head_size // 2) * 10
    cos, sin = angles.cos().to(shape.dtype), angles.sin().to(shape.dtype)
    on_device, expected = fused.clone().to(target.device), fused.double()
    size = (num_rows, shape.num_heads, shape.head_size)
    rotated = on_device[:, :width].view(size)
    target.kernels.rotate(rotated, cos.to(target.device), sin.to(target.device))
    REFERENCE.rotate(expected[:, :width].view(size), cos.double(), sin.double())
    kept = torch.equal(on_device[:, width:].cpu(), fused[:, width:])
    return relative_error(rotated.cpu(), expected[:, :width].view(size)) if kept else float("inf")


def _differences(got: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Count tensors that are not equal to the bit (NaN equals NaN)."""
    pairs = zip(got, expected, strict=True)
    return float(sum(not torch.equal(a.cpu().nan_to_num(7e4), b.nan_to_num(7e4)) for a, b in pairs))


def write_differences(target: Target, shape: Shape, num_tokens: int) -> float:
    """Write new keys and values; returns how many caches differ from the reference's."""
    width = shape.num_kv_heads * shape.head_size
    fused = torch.randn(num_tokens, 3 * width, dtype=torch.float32).to(shape.dtype)
    size = (num_tokens, shape.num_kv_heads, shape.block_size, shape.head_size)
    slots = torch.randperm(size[0] * shape.block_size)[:num_tokens]
    slots[::5] = -1
    results = []
    for kernels, device in ((target.kernels, target.device), (REFERENCE, "cpu")):
        moved = fused.to(device)
        key, value = (
            moved[:, i * width : (i + 1) * width].view(num_tokens, *size[1::2]) for i in (1, 2)
        )
        caches = [torch.full(size, float("nan"), dtype=shape.dtype, device=device) for _ in "kv"]
        kernels.write_kv(key, value, caches[0], caches[1], slots.to(device))
        results.append(caches)
    return _differences(*results)


def copy_differences(
    target: Target, shape: Shape, num_caches: int, *, more_pairs: int = 0
) -> float:
    """Copy blocks, some of them written before they are read, within several caches."""
    size = (12 + 2 * more_pairs, shape.num_kv_heads, shape.block_size, shape.head_size)
    caches = [torch.randn(size, dtype=torch.float32).to(shape.dtype) for _ in range(num_caches)]
    more = [[12 + i, 12 + more_pairs + i] for i in range(more_pairs)]
    pairs = torch.tensor([[0, 5], [1, 6], [5, 7], [2, 5], [3, 3], [7, 0], [9, 10], *more])
    results = [cache.clone().to(target.device) for cache in caches]
    target.kernels.copy_blocks(results, pairs)
    REFERENCE.copy_blocks(caches, pairs)
    return _differences(results, caches)


def swap_differences(
    target: Target, shape: Shape, num_caches: int, staging_blocks: int, *, more_pairs: int = 0
) -> float:
    """Swap blocks out and others in; compares host pool and caches with the reference's."""
    size = (9 + 2 * more_pairs, shape.num_kv_heads, shape.block_size, shape.head_size)
    caches = [torch.randn(size, dtype=torch.float32).to(shape.dtype) for _ in range(num_caches)]
    row = caches[0][0].numel() * num_caches
    pool = torch.randn(8 + more_pairs, row, dtype=torch.float32).to(shape.dtype)
    more_out = [[9 + i, 8 + i] for i in range(more_pairs)]
    more_in = [[8 + i, 9 + more_pairs + i] for i in range(more_pairs)]
    out_pairs = torch.tensor([[4, 2], [0, 3], [8, 4], [1, 7], [6, 0], *more_out])
    in_pairs = torch.tensor([[3, 5], [4, 2], [1, 8], [7, 0], *more_in])
    on_device = [cache.clone().to(target.device) for cache in caches]
    own_pool = pool.clone()
    if target.device == "cuda":
        own_pool = own_pool.pin_memory()
    staging = torch.empty(staging_blocks, row, dtype=shape.dtype, device=target.device)
    target.kernels.swap_out(on_device, own_pool, staging, out_pairs)
    target.kernels.swap_in(on_device, own_pool, staging, in_pairs)
    REFERENCE.swap_out(caches, pool, staging, out_pairs)
    REFERENCE.swap_in(caches, pool, staging, in_pairs)
    if target.device == "cuda":
        torch.cuda.synchronize()
    return _differences([*on_device, own_pool], [*caches, pool])
