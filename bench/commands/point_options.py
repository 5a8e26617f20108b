"""The options of a point: everything that determines its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from bench.commands.options import EXISTING_FILE, SEED, Function
from bench.point.spec import DEFAULT_ROUTER, Backend, PointSpec, Router, plain_setting
from engines.core.config import Preemption, System
from engines.core.models import MODELS

_DEFAULTS = {field.name: plain_setting(field.default) for field in fields(PointSpec)}
_COUNT = click.IntRange(min=1)


def amount(text: str) -> float:
    """Read a finite number that is not negative; fails in one line."""
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number") from None
    if not (math.isfinite(number) and number >= 0):
        raise click.BadParameter(f"{text} is not a finite number of at least 0")
    return number


def window(text: str) -> tuple[float, float]:
    """Read a span of time, START:END in seconds; fails in one line."""
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not START:END in seconds, such as 300:900") from None
    if not (0 <= start < end < math.inf):
        raise click.BadParameter(f"{text!r} needs 0 <= START < END")
    return start, end


def _setting(name: str, help_text: str, **extra: Any) -> Callable[[Function], Function]:
    """The option of the field `name` of PointSpec, with the field's default."""
    default = _DEFAULTS[name]
    shown = {"default": default, "show_default": True} if default is not None else {}
    flag = "--" + name.removesuffix("_gib").replace("_", "-")
    return click.option(flag, name, help=help_text, **{**shown, **extra})


_POINT_OPTIONS = (
    click.option("--system", required=True, metavar="|".join(System), help="Serving system."),
    _setting("model", f"Model: {', '.join(MODELS)}.", metavar="NAME|PATH"),
    _setting(
        "workload", "Workload.", metavar="sharegpt|alpaca|chat|translation-1shot|translation-5shot"
    ),
    _setting(
        "trace",
        "Replay a CSV file with columns arrival_s,input_len,output_len instead of a workload.",
        type=EXISTING_FILE,
    ),
    _setting(
        "lengths",
        "Lengths of the workload from a file (see `bench data`) instead of shipped statistics.",
        type=EXISTING_FILE,
    ),
    _setting("rate", "Mean arrivals per second (of a trace: its own).", type=float, metavar="R"),
    _setting(
        "duration",
        "Length of the arrivals in seconds (of a trace: its own).",
        type=float,
        metavar="S",
    ),
    _setting("seed", "Seed of all random draws.", type=SEED),
    _setting(
        "sampling",
        "Sequences per request, sampled or beams.",
        metavar="n1|n2|n4|n6|beam2|beam4|beam6",
    ),
    _setting(
        "shrink",
        "Divide all lengths and the model's context by this, for a run in miniature.",
        type=_COUNT,
    ),
    _setting("block_size", "Tokens in a KV block.", type=click.IntRange(1, 256)),
    _setting(
        "backend",
        "Run the model (cuda, cpu) or simulate it (sim).",
        default=Backend.AUTO.value,
        metavar="|".join(Backend),
    ),
    _setting(
        "device_profile",
        "Device to simulate.  [default: the paper's for the model]",
        metavar="NAME|FILE.toml",
    ),
    _setting(
        "tensor_parallel",
        "Devices that share the model.  [default: sim: the paper's for the model; else 1]",
        type=_COUNT,
    ),
    _setting(
        "replicas",
        "Engines that share the arrivals, each on devices of its own (sim).",
        type=_COUNT,
    ),
    _setting(
        "router",
        f"What chooses among replicas.  [default: {DEFAULT_ROUTER}]",
        metavar="|".join(Router),
    ),
    _setting(
        "kv_slots", "Size of the KV cache in tokens.  [default: from model and device]", type=_COUNT
    ),
    _setting(
        "gpu_memory",
        "Memory to size the KV cache for, as if the device had no more (cuda, cpu).",
        metavar="SIZE",
    ),
    _setting(
        "dtype",
        "Type of weights and KV cache (cuda, cpu).  [default: float16 on cuda, float32 on cpu]",
        metavar="float32|bfloat16|float16",
    ),
    _setting("swap_space_gib", "CPU swap space.", type=amount, metavar="GIB"),
    _setting(
        "max_batch_size",
        "Requests in a batch of ft.  [default: from model and device]",
        type=_COUNT,
    ),
    _setting("max_batched_tokens", "Tokens in one step.", type=_COUNT),
    _setting(
        "max_num_seqs",
        "Sequences in a batch.  [default: the original's for the system]",
        type=_COUNT,
    ),
    _setting(
        "preemption",
        "How a preempted group's cache is kept.",
        type=click.Choice([p.value for p in Preemption]),
    ),
    click.option(
        "--share-prefix/--no-share-prefix",
        default=False,
        show_default=True,
        help="Compute a registered prefix once and map its blocks into every request.",
    ),
    _setting(
        "warmup",
        "Requests that arrive earlier do not count for latency, in seconds.  [default: 60, or less "
        "for a short run]",
        type=amount,
        metavar="S",
    ),
    _setting(
        "timeout",
        "Stop serving at this time, in seconds, with requests unfinished.  [default: never]",
        type=amount,
        metavar="S",
    ),
    _setting(
        "window",
        "Steps over which batch and memory are averaged, in seconds.  [default: all]",
        type=window,
        metavar="START:END",
    ),
)

# Options that say what arrives when and what is measured, or describe a simulated device.
_OF_WORKLOADS = (
    *("workload", "trace", "lengths", "rate", "duration", "sampling"),
    *("warmup", "window", "timeout", "device_profile", "replicas", "router"),
)


def point_options(function: Function) -> Function:
    """Add all options of a point to a command."""
    for option in reversed(_POINT_OPTIONS):
        function = option(function)
    return function


def engine_options(function: Function) -> Function:
    """Add the options of a point that say nothing of its workload."""
    function = point_options(function)
    parameters: list[click.Parameter] = function.__click_params__  # type: ignore[attr-defined]
    parameters[:] = [p for p in parameters if p.name not in _OF_WORKLOADS]
    return function
