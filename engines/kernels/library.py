"""Finds a device's compiled kernels, or falls back to the reference with one notice."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engines.core.errors import UserError
from engines.kernels import build, fatbinary, reference

logger = logging.getLogger(__name__)

OPERATIONS = (
    "paged_attention",
    "contiguous_attention",
    "prefix_attention",
    "write_kv",
    "copy_blocks",
    "swap_out",
    "swap_in",
)


class Operation(Protocol):
    """One operation: mutates its arguments as its schema says and returns nothing."""

    def __call__(self, *arguments: Any) -> None:
        """Run on the arguments' device."""


class Kernels:
    """The operations of one device, compiled or reference.

    Attributes:
        compiled: whether they come from a compiled library.

    """

    def __init__(self, operations: dict[str, Operation], *, compiled: bool) -> None:
        self.compiled = compiled
        self.paged_attention = operations["paged_attention"]
        self.contiguous_attention = operations["contiguous_attention"]
        self.prefix_attention = operations["prefix_attention"]
        self.write_kv = operations["write_kv"]
        self.copy_blocks = operations["copy_blocks"]
        self.swap_out = operations["swap_out"]
        self.swap_in = operations["swap_in"]


def reference_kernels() -> Kernels:
    """Return the plain PyTorch operations, which run on any device."""
    return Kernels({name: getattr(reference, name) for name in OPERATIONS}, compiled=False)


def load_library(path: Path, device: str) -> Kernels:
    """Load a compiled library and give its operations fake kernels for tracing."""
    torch.ops.load_library(str(path))
    namespace = f"astra_{device}"
    operations: dict[str, Operation] = {}
    for name in OPERATIONS:
        torch.library.register_fake(f"{namespace}::{name}", _fake)
        operations[name] = getattr(getattr(torch.ops, namespace), name).default
    return Kernels(operations, compiled=True)


def _fake(*_arguments: Tensor | float | list[Tensor] | None) -> None:
    """Stand in for every operation while tracing: they only write to their arguments."""


@functools.cache
def load_kernels(device: str) -> Kernels:
    """Return the operations for tensors on `device` ("cpu" or "cuda").

    The CPU library is compiled on first use where a compiler is found; the CUDA library, which
    takes minutes, only by `python -m engines.kernels.build --device cuda`.
    """
    try:
        return load_library(_find_or_build(device), device)
    except UserError as error:
        logger.warning("the %s kernels run as their PyTorch reference, slowly: %s", device, error)
        return reference_kernels()


def _find_or_build(device: str) -> Path:
    folder = build.source_folder()
    if folder is None:
        return _only_library(device)
    path = build.library_path(device, folder)
    if not path.exists():
        if device == "cuda":
            raise UserError(_how_to_build(device))
        logger.warning("compiling the CPU kernels once (about half a minute)")
        build.build(device)
    if device == "cuda":
        check_architecture(path)
    return path


def _how_to_build(device: str) -> str:
    stale = sorted(build.library_folder().glob(f"_{device}-*.so"))
    state = f"{stale[0].name} was built from other sources" if stale else "they are not compiled"
    return f"{state}: run python -m engines.kernels.build --device {device}"


def _only_library(device: str) -> Path:
    found = sorted(build.library_folder().glob(f"_{device}-*.so"))
    if not found:
        raise UserError(f"this installation carries no {device} kernels: install from a checkout")
    return found[0]


def check_architecture(path: Path) -> None:
    """Raise UserError if a CUDA library holds no code that the present device can run."""
    major, minor = torch.cuda.get_device_capability()
    images = fatbinary.list_images(path)
    if any(image.runs_on(major, minor) for image in images):
        return
    names = ", ".join(sorted({str(image) for image in images}))
    raise UserError(
        f"{path.name} holds code for {names}, but this device is sm_{major}{minor}: run "
        f"python -m engines.kernels.build --device cuda --arch sm_{major}{minor}"
    )
