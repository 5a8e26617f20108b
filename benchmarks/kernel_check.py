"""Checks every kernel against float64: `python -m benchmarks.kernel_check --device cuda`.

`check_all` returns one result per case; the command prints them and exits with status 1 if any
exceeds its limit. With `--whole` it goes over every block size and every context length too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.kernel_cases import (
    Shape,
    Target,
    contiguous_error,
    copy_differences,
    paged_error,
    prefix_error,
    swap_differences,
    write_differences,
)
from engines.core.errors import UserError
from engines.kernels.library import load_kernels

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


@dataclass(frozen=True)
class CheckResult:
    """A case's largest error against what is allowed."""

    name: str
    max_error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the limit."""
        return self.max_error <= self.limit


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


def attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Yield the attentions' cases: every block size with every head size, long contexts."""
    limit = LIMITS[dtype]
    for block_size in BLOCK_SIZES:
        lengths = boundary_lengths(block_size)
        for head_size, share in zip(HEAD_SIZES, NEW_SHARES, strict=True):
            shape = Shape(dtype, head_size, block_size)
            yield Case(f"paged {shape}", limit, partial(_paged, shape=shape, lengths=lengths))
            run = partial(_prefix, shape=shape, lengths=lengths, share=share)
            yield Case(f"prefix {shape} new {share:.0%}", limit, run)
    for head_size in HEAD_SIZES:
        for num_heads, num_kv_heads in ((3, 3), (8, 1), (12, 2)):
            shape = Shape(dtype, head_size, 16, num_heads, num_kv_heads)
            yield Case(f"paged {shape}", limit, partial(_paged, shape=shape, lengths=[40, 1, 300]))
        for padded in (False, True):
            shape = Shape(dtype, head_size, 70)
            name = f"contiguous {shape}{' left-padded' if padded else ''}"
            yield Case(name, limit, partial(_contiguous, shape=shape, padded=padded))
    for length in LONG_CONTEXTS:
        shape = Shape(dtype, 64, 16, 2, 1)
        name = f"paged {shape} context {length}"
        yield Case(name, limit, partial(_paged, shape=shape, lengths=[length, 5]))


def remaining_cases(device: str) -> Iterator[Case]:
    """Yield what `all_cases` samples: every other block size, and every context length.

    Types and head sizes take turns, block sizes with all types. Prompts' new tokens are the last
    two of each context.
    """
    dtypes = data_types(device)
    for block_size in range(1, LARGEST_BLOCK + 1):
        if block_size in BLOCK_SIZES:
            continue
        lengths = boundary_lengths(block_size)
        for turn, dtype in enumerate(dtypes, block_size):
            shape = Shape(dtype, HEAD_SIZES[turn % len(HEAD_SIZES)], block_size)
            share = NEW_SHARES[turn % len(NEW_SHARES)]
            limit = LIMITS[dtype]
            yield Case(f"paged {shape}", limit, partial(_paged, shape=shape, lengths=lengths))
            run = partial(_prefix, shape=shape, lengths=lengths, share=share)
            yield Case(f"prefix {shape} new {share:.0%}", limit, run)
            yield Case(f"write {shape}", 0, partial(_write, shape=shape))
    for first in range(1, CONTEXT_STEP + 1):
        lengths = list(range(first, LONGEST_CONTEXT + 1, CONTEXT_STEP))
        dtype, block_size = dtypes[first % len(dtypes)], BLOCK_SIZES[first % len(BLOCK_SIZES)]
        shape, row = Shape(dtype, 64, block_size, 2, 1), Shape(dtype, 64, LONGEST_CONTEXT, 2, 1)
        about, limit = f"contexts {first}, {first + CONTEXT_STEP}, ...", LIMITS[dtype]
        yield Case(f"paged {shape} {about}", limit, partial(_paged, shape=shape, lengths=lengths))
        run = partial(_prefix_of_two, shape=shape, lengths=lengths)
        yield Case(f"prefix {shape} {about}", limit, run)
        run = partial(_contiguous_to, shape=row, ends=lengths)
        yield Case(f"contiguous {row} {about}", limit, run)


def movement_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Yield the cases of writing, copying and swapping, which must be exact."""
    for block_size in BLOCK_SIZES:
        shape = Shape(dtype, 64, block_size)
        yield Case(f"write {shape}", 0, partial(_write, shape=shape))
        yield Case(f"copy {shape}", 0, partial(_copy, shape=shape, num_caches=6))
        for staging in (0, 2, 16):
            name = f"swap {shape} staging {staging}"
            yield Case(name, 0, partial(_swap, shape=shape, num_caches=4, staging=staging))
    shape = Shape(dtype, 64, 2, 2, 1)
    # More caches, then more pairs, than the parameters of one CUDA launch hold.
    yield Case(f"copy {shape} 300 caches", 0, partial(_copy, shape=shape, num_caches=300))
    swap = partial(_swap, shape=shape)
    yield Case(f"swap {shape} 300 caches", 0, partial(swap, num_caches=300, staging=3))
    run = partial(_copy, shape=shape, num_caches=3, more_pairs=300)
    yield Case(f"copy {shape} 300 pairs", 0, run)
    run = partial(swap, num_caches=3, staging=200, more_pairs=300)
    yield Case(f"swap {shape} 300 pairs", 0, run)


def _paged(target: Target, *, shape: Shape, lengths: list[int]) -> float:
    return paged_error(target, shape, lengths)


def _prefix(target: Target, *, shape: Shape, lengths: list[int], share: float) -> float:
    return prefix_error(target, shape, lengths, [min(n, max(1, int(share * n))) for n in lengths])


def _contiguous(target: Target, *, shape: Shape, padded: bool) -> float:
    ends = [shape.block_size, 1, 33, 0, 64]
    starts = [shape.block_size - 1, 0, 32, 0, 7] if padded else None
    return contiguous_error(target, shape, ends, starts)


def _prefix_of_two(target: Target, *, shape: Shape, lengths: list[int]) -> float:
    return prefix_error(target, shape, lengths, [min(n, 2) for n in lengths])


def _contiguous_to(target: Target, *, shape: Shape, ends: list[int]) -> float:
    return contiguous_error(target, shape, ends, None)


def _write(target: Target, *, shape: Shape) -> float:
    return write_differences(target, shape, 29)


def _copy(target: Target, *, shape: Shape, num_caches: int, more_pairs: int = 0) -> float:
    return copy_differences(target, shape, num_caches, more_pairs=more_pairs)


def _swap(
    target: Target, *, shape: Shape, num_caches: int, staging: int, more_pairs: int = 0
) -> float:
    return swap_differences(target, shape, num_caches, staging, more_pairs=more_pairs)


def all_cases(device: str) -> Iterator[Case]:
    """Yield the cases of a device that a test suite has time for."""
    for dtype in data_types(device):
        yield from attention_cases(dtype)
        yield from movement_cases(dtype)


def whole_grid(device: str) -> Iterator[Case]:
    """Yield those and the remaining ones."""
    yield from all_cases(device)
    yield from remaining_cases(device)


def check_all(device: str, *, whole: bool = False) -> list[CheckResult]:
    """Run every case on a device's compiled kernels; raises UserError if there are none."""
    kernels = load_kernels(device)
    if not kernels.compiled:
        raise UserError(f"no compiled {device} kernels: run python -m engines.kernels.build")
    target = Target(kernels, device)
    torch.manual_seed(0)
    cases = whole_grid(device) if whole else all_cases(device)
    return [CheckResult(c.name, c.run(target), c.limit) for c in cases]


def main() -> int:
    """Check from the command line; exit status 1 if a case fails, 2 if nothing can be checked."""
    parser = argparse.ArgumentParser(description="Check a device's kernels against float64.")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--whole", action="store_true", help="every block size and context length")
    options = parser.parse_args()
    try:
        results = check_all(options.device, whole=options.whole)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for result in results:
        state = "ok" if result.passed else "FAILED"
        print(f"{state:6} {result.max_error:9.2e} (limit {result.limit:7.0e})  {result.name}")
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} of {len(results)} cases within their limits")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
