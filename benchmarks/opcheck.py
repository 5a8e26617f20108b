"""Whether torch believes what the operations say of themselves: `torch.library.opcheck` of each.

Schemas must name every argument that is written, and tracing must work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch

from engines.kernels.interface import OPERATIONS, Kernels


def failed_operations(kernels: Kernels, device: str) -> Iterator[tuple[str, str]]:
    """Check every operation on "cpu" or "cuda"; yields those that fail, each with the reason."""
    for name in OPERATIONS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of torch's own checks
                check: Callable[..., object] = torch.library.opcheck
                check(kernels.operations[name], sample_arguments(device)[name])
        except Exception as error:  # of a type that torch does not publish
            yield name, str(error)


def sample_arguments(device: str) -> dict[str, tuple[object, ...]]:
    """Return small arguments for every operation."""
    query, cache = torch.randn(2, 4, 64, device=device), torch.randn(3, 2, 16, 64, device=device)

    def integers(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    tables, lens = integers(0, 1, 2, 0).view(2, 2), integers(20, 16)
    caches = [cache.clone(), cache.clone()]
    pool, staging = torch.randn(2, 4096), torch.empty(1, 4096, device=device)
    pairs = torch.tensor([[1, 0]])
    attention = (torch.empty_like(query), query, cache, cache.clone())
    new = [torch.randn(3, 2, 64, device=device) for _ in "kv"]
    return {
        "paged_attention": (*attention, tables, lens, 0.1, 20),
        "contiguous_attention": (
            *(attention[0], query, cache[:2], cache[1:].clone(), None),
            *(lens - 5, 0.1, 15),
        ),
        "prefix_attention": (*attention, tables, lens, integers(0, 1, 2), 0.1, 1, 20),
        "write_kv": (
            *new,
            cache.clone(),
            cache.clone(),
            torch.tensor([0, -1, 40], device=device),
        ),
        "copy_blocks": (caches, pairs),
        "swap_out": (caches, pool, staging, pairs),
        "swap_in": (caches, pool, staging, pairs.flip(1)),
    }
