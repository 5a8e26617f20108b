"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bench.devices.device import DEFAULT_MODEL, DEVICES, settle_device, settle_dtype
from bench.point.spec import MAX_SEED
from engines.core.models import MODELS, find_model

Function = TypeVar("Function", bound=Callable[..., Any])
SEED = click.IntRange(0, MAX_SEED)
EXISTING_FILE = click.Path(exists=True, dir_okay=False)


def ray_option(use: str, *, default: str | None = None) -> Callable[[Function], Function]:
    """Return the option `--ray`, which names a Ray cluster for the use given."""
    return click.option(
        "--ray",
        default=default,
        show_default=default is not None,
        metavar="HOST:PORT|auto|local",
        help=f"{use}: at an address, this node's (auto), or one of this machine alone (local).",
    )


ray_ranks_option = ray_option(
    "Ray cluster for --tensor-parallel above 1 (cuda, cpu)", default="local"
)
ray_points_option = ray_option("Run the points on a Ray cluster")


def subject_options(function: Function) -> Function:
    """Add `--device`, `--model` and `--dtype`, of a command that measures; see `read_subject`."""
    for option in (
        click.option("--dtype", metavar="TYPE", help="[default: float16 on cuda, float32 on cpu]"),
        click.option(
            "--model",
            metavar="NAME",
            help=f"Whose shapes: {', '.join(MODELS)}.  [default: opt-13b on cuda, opt-125m on cpu]",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            metavar="|".join(DEVICES),
            help="What to measure.",
        ),
    ):
        function = option(function)
    return function


def read_subject(device: str, model: str | None, dtype: str | None) -> dict[str, Any]:
    """Settle what `subject_options` gave: the arguments of a `Subject`; raises UserError."""
    spec = None if model is None else find_model(model)
    device = settle_device(device)
    return {
        "spec": spec or find_model(DEFAULT_MODEL[device]),
        "device": device,
        "dtype": settle_dtype(dtype, device),
    }


def quiet_option(function: Function) -> Function:
    """Add `--quiet`."""
    return click.option("--quiet", "-q", is_flag=True, help="Show no progress.")(function)


def artifacts_option(function: Function) -> Function:
    """Add `--artifacts`."""
    return click.option(
        "--artifacts",
        type=click.Path(file_okay=False),
        default="artifacts",
        show_default=True,
        help="Directory of results, figures and report.",
    )(function)
