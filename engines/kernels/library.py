"""Finds a device's compiled kernels, or falls back to the reference with one notice."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engines.core.errors import UserError
from engines.kernels import build, fatbinary
from engines.kernels.interface import ContiguousContext, Kernels, NewTokens, PagedContext
from engines.kernels.reference import ReferenceKernels

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


class CompiledKernels:
    """The operations of a loaded library, registered with torch under `namespace`."""

    compiled = True

    def __init__(self, namespace: str) -> None:
        found: dict[str, Callable[..., None]] = {}
        for name in OPERATIONS:
            torch.library.register_fake(f"{namespace}::{name}", _fake)
            found[name] = getattr(getattr(torch.ops, namespace), name).default
        self.operations = found
        self.write_kv = found["write_kv"]
        self.copy_blocks = found["copy_blocks"]
        self.swap_out = found["swap_out"]
        self.swap_in = found["swap_in"]

    def paged_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, scale: float
    ) -> None:
        """See `ops.paged_attention`."""
        c = context
        self.operations["paged_attention"](
            *(out, query, c.key_cache, c.value_cache, c.block_tables, c.context_lens),
            *(scale, c.max_context_len),
        )

    def contiguous_attention(
        self, out: Tensor, query: Tensor, context: ContiguousContext, scale: float
    ) -> None:
        """See `ops.contiguous_attention`."""
        c = context
        self.operations["contiguous_attention"](
            *(out, query, c.key_cache, c.value_cache, c.start_offsets, c.context_lens),
            *(scale, c.max_context_len),
        )

    def prefix_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, new: NewTokens, scale: float
    ) -> None:
        """See `ops.prefix_attention`."""
        c = context
        self.operations["prefix_attention"](
            *(out, query, c.key_cache, c.value_cache, c.block_tables, c.context_lens),
            *(new.starts, scale, new.max_len, c.max_context_len),
        )


def load_library(path: Path, namespace: str) -> CompiledKernels:
    """Load a compiled library and give its operations fake kernels for tracing.

    Raises UserError for a file that torch cannot load.
    """
    load: Callable[[str], None] = torch.ops.load_library
    try:
        load(str(path))
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path.name} cannot be loaded ({reason}): delete it in {path.parent} and run "
            "python -m engines.kernels.build for its device"
        ) from None
    return CompiledKernels(namespace)


def _fake(*_arguments: object) -> None:
    """Stand in for every operation while tracing: they only write to their arguments."""


@functools.cache
def load_kernels(device: str) -> Kernels:
    """Return the operations for tensors on `device` ("cpu" or "cuda").

    The CPU library is compiled on first use where a compiler is found; the CUDA library, which
    takes minutes, only by `python -m engines.kernels.build --device cuda`.
    """
    try:
        return load_library(_find_or_build(device), f"astra_{device}")
    except UserError as error:
        logger.warning("the %s kernels run as their PyTorch reference, slowly: %s", device, error)
        return ReferenceKernels()


def _find_or_build(device: str) -> Path:
    folder = build.source_folder()
    path = _only_library(device) if folder is None else build.library_path(device, folder)
    if not path.exists():
        if device == "cuda":
            raise UserError(_how_to_build(device))
        if build.find_compiler(device) is not None:  # otherwise building says what is missing
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
