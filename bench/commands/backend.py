"""Which backend runs: settled from what was asked for and what is here."""

from __future__ import annotations

import importlib.util

from bench.commands.output import note
from bench.point.model import require_torch
from bench.point.spec import Backend, PointSpec, parse_name
from engines.core.errors import UserError
from engines.kernels.driver import find_driver

_MEANING = {
    "sim": "simulating the paper's A100 servers, or the device of --device-profile",
    "cpu": "running a model on this machine's CPU",
    "cuda": "running the model on this machine's GPU",
}
_REASON = {"sim": "no GPU for PyTorch here: ", "cuda": "PyTorch sees a GPU: "}  # for `auto`


def resolve_backend(name: str, *, here: bool = True) -> Backend:
    """Settle `auto`, and refuse a backend that is unknown or not installed; raises UserError.

    `auto` runs the model where PyTorch sees a GPU, and simulates elsewhere. What does not run
    `here` but in a container needs nothing installed.
    """
    backend = parse_name(Backend, name)
    if backend is Backend.AUTO:
        return Backend.CUDA if _has_gpu() else Backend.SIM
    if here and backend is not Backend.SIM:
        require_torch(name)
    return backend


def _has_gpu() -> bool:
    """Whether PyTorch sees a GPU; without a driver it need not be asked (2 s)."""
    if find_driver() is None or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def check_profile(spec: PointSpec) -> None:
    """Refuse a simulated device where a model runs; raises UserError."""
    if spec.backend != "sim" and spec.device_profile is not None:
        raise UserError(
            f"--device-profile {spec.device_profile} counts only for --backend sim, got backend "
            f"'{spec.backend}'"
        )


def tell_backend(asked: str, used: str) -> None:
    """Say on standard error what runs, and why if `auto` decided."""
    reason = _REASON.get(used, "") if asked != used else ""
    if reason and used == "sim" and find_driver() is not None:
        reason = "PyTorch sees no GPU, though a driver is here (bench doctor says why): "
    note(f"backend {used}: {reason}{_MEANING[used]}")
