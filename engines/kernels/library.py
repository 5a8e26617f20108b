"""Finds a device's compiled kernels, or falls back to the reference with one notice."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from engines.core.errors import UserError
from engines.kernels import build
from engines.kernels.interface import OPERATIONS, Kernels
from engines.kernels.reference import ReferenceKernels

logger = logging.getLogger(__name__)


@functools.cache
def load_kernels(device: str) -> Kernels:
    """Return the operations for tensors on `device`: compiled ones for "cpu" and "cuda".

    The CPU library is compiled on first use where a compiler is found; the CUDA library, which
    takes minutes, only by `python -m engines.kernels.build --device cuda`.
    """
    if device not in build.DEVICES:
        return ReferenceKernels()
    try:
        return load_library(_find_or_build(device), f"astra_{device}")
    except UserError as error:
        logger.warning("the %s kernels run as their PyTorch reference, slowly: %s", device, error)
        return ReferenceKernels()


def load_library(path: Path, namespace: str) -> Kernels:
    """Load a compiled library, whose operations torch then knows under `namespace`.

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
    found = getattr(torch.ops, namespace)
    for name in OPERATIONS:
        torch.library.register_fake(f"{namespace}::{name}", _fake)
    return Kernels({name: getattr(found, name).default for name in OPERATIONS})


def _fake(*_arguments: object) -> None:
    """Stand in for every operation while tracing: they only write to their arguments."""


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
    """Raise UserError if a CUDA library holds no code that the present device can run.

    Machine code runs on devices of its own major version, no older; the newest architecture's PTX
    on every later device.
    """
    capability = torch.cuda.get_device_capability()
    held = [divmod(number, 10) for number in build.architectures_in(path)]
    same_major = [own for own in held if own[0] == capability[0] and own <= capability]
    if same_major or (held and capability >= max(held)):
        return
    names = ", ".join(f"sm_{major}{minor}" for major, minor in held) or "an unknown device"
    present = "sm_{}{}".format(*capability)
    raise UserError(
        f"{path.name} holds code for {names}, but this device is {present}: run "
        f"python -m engines.kernels.build --device cuda --arch {present}"
    )
