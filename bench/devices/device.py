"""What to measure and on which device, and what errors of a device mean to a user."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from engines.core.errors import UserError, unknown_name

DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float16", "bfloat16", "float32")}
DEFAULT_MODEL = {"cpu": "opt-125m", "cuda": "opt-13b"}


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What to time kernels for: attention over all batches and contexts, swapping by block size."""

    batches: Sequence[int] = ()
    contexts: Sequence[int] = ()
    block_sizes: Sequence[int] = ()
    num_tokens: int = 256  # of the sequence that is swapped


def settle_device(name: str) -> str:
    """Return "cpu" or "cuda" with compiled kernels; raises UserError for what is not there."""
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "measuring a device needs PyTorch, which is not installed: install it (make install "
            "BACKEND=cpu)"
        )
    import torch

    from engines.kernels.driver import require_cuda
    from engines.kernels.library import load_kernels

    device = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if device == "cuda":
        require_cuda()

    if not load_kernels(device).compiled:
        raise UserError(
            f"the {device} kernels are not compiled: run python -m engines.kernels.build "
            f"--device {device}"
        )
    return device


def settle_dtype(name: str | None, device: str) -> str:
    """Return the type to measure in, the device's usual one without a name; raises UserError."""
    chosen = name or DTYPES[device][0]
    if chosen not in DTYPES[device]:
        raise UserError(
            f"the {device} kernels do not compute in '{chosen}': use {' or '.join(DTYPES[device])}"
        )
    return chosen


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Turn a device's out-of-memory error into one line with a remedy."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).lower()
        if "out of memory" not in text and "alloc" not in text:
            raise
        raise UserError(f"the device has too little memory for this: {remedy}") from None
