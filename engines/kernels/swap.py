"""Swap space: pinned host memory for blocks, and the staging memory that makes transfers large."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.kernels.interface import Kernels

STAGING_BYTES = 64 << 20  # large enough for full bus bandwidth, small beside a KV cache
SLAB_BYTES = GIB


def usable_bytes(limit_bytes: int, row_bytes: int) -> int:
    """Bytes of blocks that `limit_bytes` of host memory hold, `row_bytes` of them side by side.

    PyTorch pins powers of two. Slabs of SLAB_BYTES, of which the last may be smaller, waste less of
    them than a row each.
    """
    slab_bytes = max(SLAB_BYTES, 1 << (row_bytes - 1).bit_length())
    slabs, rest = divmod(limit_bytes, slab_bytes)
    last_bytes = 1 << (rest.bit_length() - 1) if rest else 0
    return (slabs * (slab_bytes // row_bytes) + last_bytes // row_bytes) * row_bytes


def _allocate(num_rows: int, row: int, cache: Tensor) -> Tensor:
    return torch.empty(num_rows, row, dtype=cache.dtype, device="cpu", pin_memory=cache.is_cuda)


class SwapSpace:
    """Room for `num_host_blocks` blocks of all caches in host memory, in slabs.

    One host block holds a block of every cache side by side, so it crosses the bus in a single
    transfer whatever the block size (Figure 19a shows what small transfers cost). Blocks so large
    that one of each cache exceeds STAGING_BYTES need no gathering and move one by one, as all do
    with `staged=False` (the original system's way). Raises UserError if the host lacks the memory.
    """

    def __init__(
        self,
        kernels: Kernels,
        caches: list[Tensor],
        num_host_blocks: int,
        *,
        staged: bool = True,
    ) -> None:
        first = caches[0]
        row = first[0].numel() * len(caches)
        row_bytes = row * first.element_size()
        stages = staged and first.is_cuda and num_host_blocks > 0
        staging_blocks = STAGING_BYTES // row_bytes if stages else 0
        self._kernels = kernels
        self._caches = caches
        self._staging = torch.empty(staging_blocks, row, dtype=first.dtype, device=first.device)
        self._slab_rows = max(1, SLAB_BYTES // row_bytes)
        try:
            self._slabs = [
                _allocate(min(self._slab_rows, num_host_blocks - i), row, first)
                for i in range(0, num_host_blocks, self._slab_rows)
            ]
        except RuntimeError as error:
            if "memory" not in str(error).lower():
                raise
            wanted = num_host_blocks * row_bytes / GIB
            raise UserError(
                f"no {wanted:.1f} GiB of host memory for swapped blocks: lower --swap-space"
            ) from None

    def swap_out(self, pairs: Tensor) -> None:
        """Copy blocks out; pairs: int64 [n, 2] of (device block, host block)."""
        for slab, own in self._by_slab(pairs, host=1):
            self._kernels.swap_out(self._caches, slab, self._staging, own)

    def swap_in(self, pairs: Tensor) -> None:
        """Copy blocks back; pairs: int64 [n, 2] of (host block, device block)."""
        for slab, own in self._by_slab(pairs, host=0):
            self._kernels.swap_in(self._caches, slab, self._staging, own)

    def _by_slab(self, pairs: Tensor, *, host: int) -> list[tuple[Tensor, Tensor]]:
        """Slabs and those of the pairs that are in each, with their rows in column `host`."""
        slabs = pairs[:, host] // self._slab_rows
        found = []
        for number in sorted(set(slabs.tolist())):
            own = pairs[slabs == number]
            own[:, host] -= number * self._slab_rows
            found.append((self._slabs[number], own))
        return found
