"""The kernels' cases: every block size, head size, type and context length against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from kernel_cases import (
    Shape,
    Target,
    contiguous_error,
    copy_differences,
    gate_error,
    norm_error,
    paged_error,
    prefix_error,
    rotation_error,
    swap_differences,
    write_differences,
)

LIMITS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
HEAD_SIZES = (64, 80, 96, 128, 256)
BLOCK_SIZES = (1, 2, 3, 7, 8, 16, 17, 32, 64, 128, 256)
NEW_SHARES = (1.0, 0.5, 0.0, 0.25, 0.75)  # of a context's tokens, at least one, by head size
LONG_CONTEXTS = (511, 512, 513, 1024, 1025, 2047, 2048, 4095, 4096)
LARGEST_BLOCK, LONGEST_CONTEXT = 256, 4096
CONTEXT_STEP = 64  # a case holds every 64th length, so 64 cases hold all


@dataclass(frozen=True)
class Case:
    """One check: `run` returns its largest error."""

    name: str
    limit: float
    run: Callable[[Target], float]


def _case(
    kind: str, function: Callable[..., float], shape: Shape, *, note: str = "", **arguments: object
) -> Case:
    """What computes may err by the type's limit; what moves data must be exact."""
    limit = 0 if kind in ("write", "copy", "swap") else LIMITS[shape.dtype]
    return Case(f"{kind} {shape}{note}", limit, partial(function, shape=shape, **arguments))


def data_types(device: str) -> tuple[torch.dtype, ...]:
    """Return the types that a device's kernels support."""
    if device == "cpu":
        return (torch.float32, torch.bfloat16)
    return (torch.float32, torch.float16, torch.bfloat16)


def boundary_lengths(block_size: int) -> list[int]:
    """Return context lengths around the ends of blocks, an empty context among them."""
    around = {0, 1, block_size - 1, block_size, block_size + 1, 33}
    if block_size <= 64:
        around.add(3 * block_size + 1)
    return sorted(around)


def _at_boundaries(shape: Shape, share: float) -> Iterator[Case]:
    """Yield decode and prompt attention; `share` of a prompt's context is new."""
    lengths = boundary_lengths(shape.block_size)
    yield _case("paged", paged_error, shape, lengths=lengths)
    queries = [min(n, max(1, int(share * n))) for n in lengths]
    note = f" new {share:.0%}"
    yield _case("prefix", prefix_error, shape, note=note, lengths=lengths, queries=queries)


def _attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Yield the attentions' cases: every block size with every head size, long contexts."""
    for block_size in BLOCK_SIZES:
        for head_size, share in zip(HEAD_SIZES, NEW_SHARES, strict=True):
            yield from _at_boundaries(Shape(dtype, head_size, block_size), share)
    for head_size in HEAD_SIZES:
        for num_heads, num_kv_heads in ((3, 3), (8, 1), (12, 2)):
            shape = Shape(dtype, head_size, 16, num_heads, num_kv_heads)
            yield _case("paged", paged_error, shape, lengths=[40, 1, 300])
        shape, ends = Shape(dtype, head_size, 70), [70, 1, 33, 0, 64]
        yield _case("contiguous", contiguous_error, shape, ends=ends, starts=None)
        starts, note = [69, 0, 32, 0, 7], " left-padded"
        yield _case("contiguous", contiguous_error, shape, note=note, ends=ends, starts=starts)
    for length in LONG_CONTEXTS:
        shape, note = Shape(dtype, 64, 16, 2, 1), f" context {length}"
        yield _case("paged", paged_error, shape, note=note, lengths=[length, 5])


def _movement_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Yield the cases of writing, copying and swapping."""
    for block_size in BLOCK_SIZES:
        shape = Shape(dtype, 64, block_size)
        yield _case("write", write_differences, shape, num_tokens=29)
        yield _case("copy", copy_differences, shape, num_caches=6)
        for blocks in (0, 2, 16):
            swap = partial(swap_differences, num_caches=4, staging_blocks=blocks)
            yield _case("swap", swap, shape, note=f" staging {blocks}")
    # More caches, then more pairs, than the parameters of one CUDA launch hold.
    shape = Shape(dtype, 64, 2, 2, 1)
    for caches, pairs, staging in ((300, 0, 3), (3, 300, 200)):
        many = {"note": f" {caches} caches {pairs} more pairs", "num_caches": caches}
        yield _case("copy", copy_differences, shape, more_pairs=pairs, **many)
        swap = partial(swap_differences, staging_blocks=staging)
        yield _case("swap", swap, shape, more_pairs=pairs, **many)


def _row_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Yield norms, gates and rotations of rows as wide as OPT-125M's, OPT-13B's and OPT-175B's, and
    of less than a thread block.
    """
    for num_heads, head_size in ((1, 80), (12, 64), (40, 128), (96, 128)):
        shape = Shape(dtype, head_size, 1, num_heads, num_heads)
        for biased in (True, False):
            note = " with bias" if biased else ""
            yield _case("norm", norm_error, shape, note=note, num_rows=3, biased=biased)
        yield _case("gate", gate_error, shape, num_rows=3)
    for head_size in HEAD_SIZES:
        yield _case("rotation", rotation_error, Shape(dtype, head_size, 1), num_rows=19)


def usual_cases(device: str) -> Iterator[Case]:
    """Yield the cases of a device that a test suite has time for."""
    for dtype in data_types(device):
        yield from _attention_cases(dtype)
        yield from _movement_cases(dtype)
        yield from _row_cases(dtype)


def remaining_cases(device: str) -> Iterator[Case]:
    """Yield what `usual_cases` samples: every other block size, and every context length.

    Types and head sizes take turns, block sizes with all types. Prompts' new tokens are the last
    two of each context.
    """
    dtypes = data_types(device)
    for block_size in sorted({*range(1, LARGEST_BLOCK + 1)} - {*BLOCK_SIZES}):
        for turn, dtype in enumerate(dtypes, block_size):
            shape = Shape(dtype, HEAD_SIZES[turn % len(HEAD_SIZES)], block_size)
            yield from _at_boundaries(shape, NEW_SHARES[turn % len(NEW_SHARES)])
            yield _case("write", write_differences, shape, num_tokens=29)
    for first in range(1, CONTEXT_STEP + 1):
        lengths = list(range(first, LONGEST_CONTEXT + 1, CONTEXT_STEP))
        dtype, block_size = dtypes[first % len(dtypes)], BLOCK_SIZES[first % len(BLOCK_SIZES)]
        shape, row = Shape(dtype, 64, block_size, 2, 1), Shape(dtype, 64, LONGEST_CONTEXT, 2, 1)
        note = f" contexts {first}, {first + CONTEXT_STEP}, ..."
        yield _case("paged", paged_error, shape, note=note, lengths=lengths)
        queries = [min(n, 2) for n in lengths]
        yield _case("prefix", prefix_error, shape, note=note, lengths=lengths, queries=queries)
        yield _case("contiguous", contiguous_error, row, note=note, ends=lengths, starts=None)


def failures(cases: Sequence[Case], target: Target) -> list[str]:
    """Run cases; returns a line for each whose error exceeds its limit."""
    found = []
    for case in cases:
        try:
            error = case.run(target)
        except RuntimeError as refusal:
            raise RuntimeError(f"case {case.name}: {refusal}") from refusal
        if not error <= case.limit:
            found.append(f"{case.name}: error {error:.2e} exceeds {case.limit:.0e}")
    return found
