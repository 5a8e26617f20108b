"""This machine's NVIDIA driver, and why PyTorch has no CUDA device here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from engines.core.errors import UserError

# The oldest driver that runs programs of a CUDA of this major version: NVIDIA's "CUDA
# Compatibility", table of minor version compatibility.
MIN_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_TIMEOUT_S = 20


def find_driver() -> str | None:
    """Return the version of the NVIDIA driver, None without one.

    nvidia-smi tells it, or the kernel module where that program is absent or fails.
    """
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        told = re.match(r"\d+\.[\d.]+", done.stdout)
    except (OSError, subprocess.SubprocessError):
        told = None
    if told is not None:
        return told[0]
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _KERNEL_MODULE.read_text())
    except OSError:
        return None
    return found and found[1]


def least_driver(cuda: str, driver: str) -> str | None:
    """Return the driver that programs of a CUDA version need, None if `driver` serves them."""
    least = MIN_DRIVERS.get(int(cuda.split(".", maxsplit=1)[0]), (0, 0))
    if tuple(map(int, re.findall(r"\d+", driver)[:2])) >= least:
        return None
    return ".".join(map(str, least))


def require_cuda() -> None:
    """Raise UserError, with the reason and the remedy, if PyTorch has no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"no CUDA device here: {_why_no_cuda(torch.__version__, torch.version.cuda)}"
        )


def _why_no_cuda(version: str, cuda: str | None) -> str:
    driver = find_driver()
    if driver is None:
        return "no NVIDIA driver found: use a machine with a GPU, --backend cpu or sim"
    if cuda is None:
        return (
            f"driver {driver} is there, but PyTorch {version} is built without CUDA: pip install "
            f"--force-reinstall torch=={version.partition('+')[0]}"
        )
    needed = least_driver(cuda, driver)
    if needed is not None:
        return (
            f"driver {driver} is too old for CUDA {cuda} of PyTorch {version}: install driver "
            f"{needed} or newer, or a PyTorch built for an older CUDA"
        )
    return (
        f"driver {driver} serves CUDA {cuda} of PyTorch {version}, but shows it no GPU: see "
        "nvidia-smi and CUDA_VISIBLE_DEVICES"
    )
