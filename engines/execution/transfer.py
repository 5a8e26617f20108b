"""Small arrays from the host to the device without waiting for it, and back with one wait."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def send(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return the array as a tensor on `device`; on a CPU it is the array's own memory.

    For CUDA the copy is queued from pinned memory, which PyTorch keeps until it is done.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(*tensors: Tensor) -> list[Tensor]:
    """Return tensors of one device in host memory; waits for the device once for all of them.

    On a CPU they are the tensors themselves.
    """
    if not tensors[0].is_cuda:
        return list(tensors)
    moved = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return moved
