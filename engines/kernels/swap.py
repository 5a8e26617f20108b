"""Swap space: pinned host memory for blocks, and the staging memory that makes transfers large."""

from __future__ import annotations

import torch
from torch import Tensor

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.kernels.library import load_kernels

STAGING_BYTES = 64 << 20  # large enough for full bus bandwidth, small beside a KV cache


class SwapSpace:
    """Room for `num_host_blocks` blocks of all caches in host memory.

    One host block holds a block of every cache side by side, so it crosses the bus in a single
    transfer whatever the block size (Figure 19a shows what small transfers cost). Blocks so large
    that one of each cache exceeds STAGING_BYTES need no gathering and move one by one, as all do
    with `staged=False` (the original system's way). Raises UserError if the host lacks the memory.
    """

    def __init__(self, caches: list[Tensor], num_host_blocks: int, *, staged: bool = True) -> None:
        first = caches[0]
        row = first[0].numel() * len(caches)
        row_bytes = row * first.element_size()
        staging_blocks = STAGING_BYTES // row_bytes if staged and first.is_cuda else 0
        self._kernels = load_kernels(first.device.type)
        self._caches = caches
        self._staging = torch.empty(staging_blocks, row, dtype=first.dtype, device=first.device)
        try:
            self.pool = torch.empty(
                num_host_blocks, row, dtype=first.dtype, device="cpu", pin_memory=first.is_cuda
            )
        except RuntimeError as error:
            if "memory" not in str(error).lower():
                raise
            wanted = num_host_blocks * row_bytes / GIB
            raise UserError(
                f"no {wanted:.1f} GiB of host memory for swapped blocks: lower --swap-space"
            ) from None

    def swap_out(self, pairs: Tensor) -> None:
        """Copy blocks out; pairs: int64 [n, 2] of (device block, host block)."""
        self._kernels.swap_out(self._caches, self.pool, self._staging, pairs)

    def swap_in(self, pairs: Tensor) -> None:
        """Copy blocks back; pairs: int64 [n, 2] of (host block, device block)."""
        self._kernels.swap_in(self._caches, self.pool, self._staging, pairs)
