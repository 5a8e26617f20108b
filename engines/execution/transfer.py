"""Small arrays from the host to the device without waiting for it, and back with one wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 8  # bytes: of the largest type


def send_all(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> list[Tensor]:
    """Return arrays as tensors on `device`, by one upload; on a CPU they are the arrays' memory.

    For CUDA the copy is queued from pinned memory, which PyTorch keeps until it is done.
    """
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if device.type == "cpu":
        return tensors
    return unpack(pack(tensors, pinned=True).to(device, non_blocking=True), tensors)


def pack(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Copy host tensors into one buffer, uint8 [their bytes, each a multiple of 8]."""
    packed = torch.empty(sum(map(_padded_bytes, tensors)), dtype=torch.uint8, pin_memory=pinned)
    for target, tensor in zip(unpack(packed, tensors), tensors, strict=True):
        target.copy_(tensor)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of a copy of `pack(like)` with the types and shapes of `like`."""
    parts = packed.split_with_sizes([_padded_bytes(tensor) for tensor in like])
    return [
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for part, tensor in zip(parts, like, strict=True)
    ]


def _padded_bytes(tensor: Tensor) -> int:
    """So that the next one starts where any type may."""
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


def fetch(*tensors: Tensor) -> list[Tensor]:
    """Return tensors of one device in host memory; waits for the device once for all of them.

    On a CPU they are the tensors themselves.
    """
    if not tensors[0].is_cuda:
        return list(tensors)
    moved = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return moved
