"""Options that many commands share. `bench.cli` shows the defaults of all options in the help."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from bench.commands.types import COUNT, DIRECTORY, INPUT, SEED, Decimal
from bench.devices.device import DEFAULT_MODEL, DEVICES, settle_device, settle_dtype
from bench.docker import gpus
from bench.docker.images import parse_build_args
from bench.point.spec import BACKENDS
from engines.core.model_config import read_config
from engines.core.models import MODELS, find_model, is_path

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def stack(*decorators: Decorator) -> Decorator:
    """Return one decorator that adds several options, in this order."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add


flag = partial(click.option, is_flag=True)
as_json = partial(flag, "--json", "as_json")
jobs = partial(click.option, "--jobs", "-j", type=COUNT, metavar="N")
force = flag("--force", help="Run points again that are complete.")
quiet = flag("--quiet", "-q", help="Show no progress.")
artifacts = click.option(
    "--artifacts",
    type=DIRECTORY,
    default="artifacts",
    help="Directory of results, figures and report.",
)
ray_cluster = partial(click.option, "--ray", metavar="HOST:PORT|auto|local")
_RAY = "at an address, this node's (auto), or one of this machine alone (local)."
ray_ranks = ray_cluster(
    default="local", help=f"Ray cluster for --tensor-parallel above 1 (cuda, cpu): {_RAY}"
)
ray_points = ray_cluster(help=f"Run the points on a Ray cluster: {_RAY}")
out_folder = partial(click.option, "--out", type=DIRECTORY, metavar="DIR")
reference = partial(click.option, "--reference", type=DIRECTORY, metavar="DIR")
build_arg = click.option(
    "--build-arg",
    multiple=True,
    envvar="BENCH_BUILD_ARGS",
    metavar="NAME=VALUE",
    callback=lambda _ctx, _option, words: parse_build_args(words),
    help="For images that are built (docs/containers.md); also from BENCH_BUILD_ARGS.",
)
image_device = click.option(
    "--device",
    type=click.Choice(("auto", "cuda", "cpu")),
    default="auto",
    callback=lambda _ctx, _option, name: gpus.settle_device(name),
    help="Images for GPUs, or for machines without. auto: what this machine has.",
)
place = stack(
    jobs(help="Points to run at a time.  [default: one for each core]"),
    click.option(
        "--runner",
        type=click.Choice(("auto", "docker", "local")),
        default="auto",
        help="Where points run: in containers (docker) or processes (local). auto: containers "
        "where Docker and GPUs are.",
    ),
    build_arg,
    ray_points,
)
effort = stack(
    flag("--quick", help="Short traces and fewer rates, to see that all works."),
    flag("--short", help="The original scripts' traces, mostly 600 s: the default on GPUs."),
    flag("--full", help="The paper's traces, mostly 3600 s: the default of the simulation."),
)
# What chooses among a figure's possible results; see `bench.commands.selection`.
selection = stack(
    artifacts,
    effort,
    click.option(
        "--lengths",
        type=INPUT,
        help="Lengths of ShareGPT from a file (see `bench data`) instead of shipped statistics.",
    ),
    click.option("--seed", type=SEED, help="Another seed than the registry's."),
    click.option(
        "--backend",
        default="auto",
        metavar="|".join(BACKENDS),
        help="Whose results: simulated, or measured with a model on this device.",
    ),
    click.option(
        "--scale",
        type=Decimal(min=0, min_open=True),
        metavar="SPEED",
        help="Speed of this CPU for figures in miniature (--backend cpu), as a share of the "
        "paper's server.  [default: measured once]",
    ),
)
# What a command measures; `read_subject` reads it.
subject = stack(
    click.option("--device", default="auto", metavar="|".join(DEVICES), help="What to measure."),
    click.option(
        "--model",
        metavar="NAME|PATH",
        help=f"Whose shapes: {', '.join(MODELS)}, or a checkpoint's.  [default: opt-13b on cuda, "
        "opt-125m on cpu]",
    ),
    click.option("--dtype", metavar="TYPE", help="[default: float16 on cuda, float32 on cpu]"),
)


def read_subject(device: str, model: str | None, dtype: str | None) -> dict[str, Any]:
    """Settle what the options `subject` gave: the arguments of a `Subject`; raises UserError."""
    config = read_config(model) if model is not None and is_path(model) else None
    spec = None if model is None else find_model(model, config)
    device = settle_device(device)
    return {
        "spec": spec or find_model(DEFAULT_MODEL[device]),
        "device": device,
        "dtype": settle_dtype(dtype, device),
    }
