"""Whether a model's weights fit a device, asked before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.core.config import GIB
from engines.core.errors import UserError
from engines.core.models import MODELS, ModelSpec


def require_memory(spec: ModelSpec, dtype: torch.dtype, device: torch.device, degree: int) -> None:
    """Raise UserError, naming what would fit, where a rank's weights exceed the free memory."""
    free_bytes = free_memory_bytes(device)
    if free_bytes is not None and spec.num_parameters * dtype.itemsize / degree > free_bytes:
        raise too_large(spec, dtype, device, degree)


def too_large(spec: ModelSpec, dtype: torch.dtype, device: torch.device, degree: int) -> UserError:
    """The error for weights that the device has no memory for; says what would fit."""
    free_bytes = free_memory_bytes(device) or 0
    needed_bytes = spec.num_parameters * dtype.itemsize / degree
    remedies = ["a higher --tensor-parallel"]
    if dtype == torch.float32 and needed_bytes / 2 <= free_bytes:
        remedies.insert(0, "a 16-bit dtype")
    fitting = [
        other
        for other in MODELS.values()
        if other.family == spec.family
        and other.num_parameters * dtype.itemsize / degree <= min(free_bytes, needed_bytes - 1)
    ]
    if fitting:
        largest = max(fitting, key=lambda other: other.num_parameters)
        remedies.append(f"a smaller model (the largest that fits is {largest.name})")
    type_name = str(dtype).removeprefix("torch.")
    return UserError(
        f"{spec.name} in {type_name} needs {needed_bytes / GIB:.1f} GiB for its weights, "
        f"{device} has {free_bytes / GIB:.1f} GiB free: use {' or '.join(remedies)}"
    )


def free_memory_bytes(device: torch.device) -> int | None:
    """Memory that a process can still allocate on `device`; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kibibytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes[0]) * 1024 if kibibytes else None
