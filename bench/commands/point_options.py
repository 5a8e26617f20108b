"""The options of a point: everything that determines its result, a field of PointSpec each."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import MISSING, fields
from typing import Any

import click

from bench.commands import options
from bench.commands.types import COUNT, INPUT, SECONDS, SEED, Decimal, Whole, window
from bench.point.spec import DEFAULT_ROUTER, Backend, PointSpec, Router, plain_setting
from bench.workloads.replay import TooLong, ZeroOutput
from engines.core.config import Preemption, System
from engines.core.models import MODELS
from engines.sim.profile import names_of

SYSTEM_VARIABLE = "BENCH_SYSTEM"  # the default of --system; each image sets it to its own
SETTINGS = tuple(field.name for field in fields(PointSpec))


# In the order of the help.
_HELP: Mapping[str, str] = {
    "system": "Serving system.",
    "model": f"Model: {', '.join(MODELS)}, or the path of a checkpoint; a config.json suffices to "
    "simulate it.",
    "workload": "Workload.",
    "trace": "Replay a file instead of a workload: CSV or JSON lines with the columns of Azure's, "
    "BurstGPT's, Mooncake's, ... (docs/extending.md) or arrival_s,input_len,output_len.",
    "trace_column": "A column of the trace by its name: KEY is arrival (in seconds; arrival_ms, "
    "arrival_us, arrival_ns), input, output or prefix. Repeatable.",
    "too_long": "Requests of the trace that are longer than the model's context.",
    "zero_output": "Requests of the trace with no output tokens (or no prompt).",
    "limit": "Requests of the trace that are served, the first ones.  [default: all]",
    "start": "Leave out what arrives before this second of the trace.",
    "end": "Leave out what arrives from this second of the trace on.",
    "speed": "Divide the trace's arrivals by this: 2 doubles its rate.",
    "lengths": "Lengths of the workload from a file (see `bench data`) instead of shipped "
    "statistics.",
    "rate": "Mean arrivals per second (a trace has its own, unless it has lengths alone).",
    "duration": "Length of the arrivals in seconds (a trace has its own).",
    "seed": "Seed of all random draws.",
    "sampling": "Sequences per request, sampled or beams.",
    "shrink": "Divide all lengths and the model's context by this, for a run in miniature.",
    "block_size": "Tokens in a KV block.",
    "backend": "Run the model (cuda, cpu) or simulate it (sim).",
    "device_profile": f"Device to simulate: {', '.join(names_of('profiles'))}, or a file.  "
    "[default: the paper's for the model]",
    "host": "Host of the simulated device: none, the paper's Python of 2023, or a file of times.  "
    "[default: as the device profile says]",
    "tensor_parallel": "Devices that share the model.  [default: sim: the paper's for the model; "
    "else 1]",
    "replicas": "Engines that share the arrivals, each on devices of its own (sim).",
    "router": f"What chooses among replicas.  [default: {DEFAULT_ROUTER}]",
    "kv_slots": "Size of the KV cache in tokens.  [default: from model and device]",
    "gpu_memory": "Memory to size the KV cache for, as if the device had no more (cuda, cpu).",
    "dtype": "Type of weights and KV cache (cuda, cpu).  [default: float16 on cuda, float32 on "
    "cpu]",
    "swap_space_gib": "CPU swap space.",
    "max_batch_size": "Requests in a batch of ft.  [default: from model and device]",
    "max_batched_tokens": "Tokens in one step.",
    "max_num_seqs": "Sequences in a batch.  [default: the original's for the system]",
    "preemption": "How a preempted group's cache is kept.",
    "share_prefix": "Compute a registered prefix once and map its blocks into every request.",
    "warmup": "Requests that arrive earlier do not count for latency, in seconds.  [default: 60, "
    "or less for a short run]",
    "timeout": "Stop serving at this time, in seconds, with requests unfinished.  [default: never]",
    "window": "Steps over which batch and memory are averaged, in seconds.  [default: all]",
}
# What stands for the value in the help where its type does not say it.
_METAVARS: Mapping[str, str] = {
    "system": "|".join(System),
    "model": "NAME|PATH",
    "workload": "sharegpt|alpaca|chat|translation-1shot|translation-5shot",
    "trace_column": "KEY=NAME",
    "start": "S",
    "end": "S",
    "speed": "X",
    "rate": "R",
    "duration": "S",
    "sampling": "n1|n2|n4|n6|beam2|beam4|beam6",
    "backend": "|".join(Backend),
    "device_profile": "NAME|FILE.toml",
    "host": "none|paper|FILE.toml",
    "router": "|".join(Router),
    "gpu_memory": "SIZE",
    "dtype": "float32|bfloat16|float16",
    "swap_space_gib": "GIB",
    "warmup": "S",
    "timeout": "S",
    "window": "START:END",
}
# How the text is read where the field's own type does not say it.
_BY_FIELD: dict[str, Any] = {
    "trace": INPUT,
    "lengths": INPUT,
    "seed": SEED,
    "block_size": Whole(1, 256),
    "preemption": click.Choice([p.value for p in Preemption]),
    "too_long": click.Choice([how.value for how in TooLong]),
    "zero_output": click.Choice([how.value for how in ZeroOutput]),
    "swap_space_gib": SECONDS,
    "window": window,
}
_BY_TYPE: Mapping[str, Any] = {
    "tuple[str, ...]": str,
    "int": COUNT,
    "int | None": COUNT,
    "float": Decimal(),
    "float | None": SECONDS,
}
_TYPES = {f.name: _BY_TYPE.get(str(f.type)) for f in fields(PointSpec)} | _BY_FIELD
_DEFAULTS = {
    field.name: plain_setting(field.default)
    for field in fields(PointSpec)
    if field.default not in (MISSING, None)
} | {"backend": Backend.AUTO.value}

# Settings that say what arrives when and what is measured, or describe a simulated device.
OF_WORKLOADS = (
    *("workload", "trace", "lengths", "rate", "duration", "sampling"),
    *("trace_column", "too_long", "zero_output", "limit", "start", "end", "speed"),
    *("warmup", "window", "timeout", "device_profile", "host", "replicas", "router"),
)


def _option(name: str, *, required: bool) -> options.Decorator:
    """The option of a field, with the field's default; a system's image names its own system."""
    words = "--" + name.removesuffix("_gib").replace("_", "-")
    if name == "share_prefix":
        words = f"{words}/--no-share-prefix"
    default = {"default": _DEFAULTS[name]} if name in _DEFAULTS else {}
    return click.option(
        words,
        name,
        required=required,
        envvar=SYSTEM_VARIABLE if required else None,
        show_envvar=True,
        type=_TYPES[name],
        multiple=_TYPES[name] is str,
        metavar=_METAVARS.get(name),
        help=_HELP[name],
        **default,
    )


def point_options(
    *, without: Container[str] = (), system_required: bool = True
) -> options.Decorator:
    """Return a decorator that adds an option for each field of a point."""
    return options.stack(
        *(
            _option(name, required=name == "system" and system_required)
            for name in _HELP
            if name not in without
        )
    )


def is_given(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, so that its value is not merely its default."""
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
