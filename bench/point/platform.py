"""Where a point runs: what serving asks of a device with a model, and the simulated device.

Serving a workload cannot tell which it has: a simulated device, a model on this machine
(`bench.point.model`) or NVIDIA's library (`bench.point.ft_library`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.point.spec import PointSpec
from engines.core.clock import Clock, VirtualClock, WallClock
from engines.core.config import GIB, EngineConfig, System
from engines.core.executor import Executor
from engines.core.model_config import ModelConfig, read_config
from engines.core.models import ModelSpec, find_model, is_path
from engines.core.sampling import SamplingParams
from engines.models.spec import why_not_run
from engines.sim.beams import BeamProcess
from engines.sim.cost import StepCost, StepPrice
from engines.sim.executor import SimExecutor
from engines.sim.measured import MeasuredCost
from engines.sim.profile import DeviceProfile, load_profile
from engines.sim.slots import default_slots, paper_server
from engines.sim.waking import WakingClock

Progress = Callable[[float], None]  # called with the finished share, 0 to 1
# The original decodes these greedily, and draws the tokens of all others at random.
GREEDY_WORKLOADS = ("translation-1shot", "translation-5shot")


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A device that serves one model; to be closed after use.

    `model` is its shape in the type that it is kept in, `device` the name that results show,
    `swap_bytes` the memory for swapped blocks, `inputs` what results depend on besides the spec and
    the workload. `default_slots` tells how many KV slots its memory holds, or raises UserError.
    `create_executor` makes what runs the batches of one engine, with random draws from a seed, and
    `create_clock` a clock that starts now. `host_us_per_step` tells the mean microseconds of a step
    outside the model from the executor, the wall time in seconds and the number of steps; NaN where
    it is not known.
    """

    model: ModelSpec
    device: str
    inputs: Mapping[str, Any]
    default_slots: Callable[[], int]
    create_executor: Callable[[EngineConfig, int], Executor]
    create_clock: Callable[[], Clock] = WallClock
    host_us_per_step: Callable[[Any, float, int], float] = lambda executor, wall_s, steps: math.nan
    swap_bytes: int = 0
    close: Callable[[], None] = lambda: None


def simulate(spec: PointSpec) -> Platform:
    """The paper's server for the model unless the spec names another; raises UserError."""
    config = read_config(spec.model) if is_path(spec.model) else None
    model = find_model(spec.model, config)
    server_profile, server_degree = paper_server(model)
    asked = server_profile if spec.device_profile is None else spec.device_profile
    profile, files = load_profile(asked, spec.host), spec.input_files
    read = profile.files | ({} if config is None else {"model": config.sha256})
    if spec.trace is None and spec.workload in GREEDY_WORKLOADS:
        profile = replace(profile, draw_overhead_s=0.0)
    degree = server_degree if spec.tensor_parallel is None else spec.tensor_parallel
    model = replace(model, dtype_bytes=int(profile.element_bytes or model.dtype_bytes))
    own_host = "" if spec.host is None else f", host {spec.host}"
    return Platform(
        model=model,
        device=f"{degree}x {profile.name}{own_host}",
        inputs={
            "device_profile": {
                "name": profile.name,
                "sha256": profile.sha256,
                "host": profile.host,
                "calibrated": dict(profile.calibrated),
                "assumed": dict(profile.assumed),
                **({"steps": _why_formula(model, profile, degree)} if profile.steps else {}),
            },
            **_of_model(spec.model, model, config),
            "files": {name: digest for name, digest in read.items() if name in files},
        },
        default_slots=partial(default_slots, model, profile, degree),
        create_executor=partial(_executor, model, profile, degree, spec.sampling),
        create_clock=_clock(model, profile, degree),
        # All of the simulation's own time is the host's.
        host_us_per_step=lambda executor, wall_s, steps: 1e6 * wall_s / max(steps, 1),
        swap_bytes=int(spec.swap_space_gib * GIB * model.kv_shards(degree)),
    )


def _of_model(name_or_path: str, model: ModelSpec, config: ModelConfig | None) -> dict[str, Any]:
    """What results say about a model that is not one of those that can be run."""
    source = model.name if config is None else config.source
    why = (why_not_run(name_or_path, config) or "").removeprefix(f"{source}: ")
    notes = [
        *([f"this model can be simulated, not run for real: {why}"] if why else []),
        *model.notes,
    ]
    return {"model": {"name": model.name, "notes": notes}} if notes else {}


def _why_formula(model: ModelSpec, profile: DeviceProfile, degree: int) -> str:
    """How steps are priced by a profile that holds measured ones, as results say it."""
    assert profile.steps is not None, "only for a profile with measured steps"
    if profile.steps.model != model.name:
        return f"formula: the measured steps are of {profile.steps.model}"
    return (
        "measured" if degree == 1 else f"formula: steps were measured on one device, not {degree}"
    )


def _clock(model: ModelSpec, profile: DeviceProfile, degree: int) -> Callable[[], Clock]:
    steps = profile.steps
    if steps is None or not steps.waking or _why_formula(model, profile, degree) != "measured":
        return VirtualClock
    return partial(WakingClock, steps)


def _executor(
    model: ModelSpec,
    profile: DeviceProfile,
    degree: int,
    sampling: SamplingParams,
    config: EngineConfig,
    seed: int,
) -> SimExecutor:
    """An executor that prices a model's batches instead of running them."""
    price: StepPrice
    if profile.steps is not None and _why_formula(model, profile, degree) == "measured":
        price = MeasuredCost(
            profile.steps,
            config.system.family,
            block_size=config.block_size,
            draws=sampling.temperature > 0,
        )
    else:
        price = StepCost(
            model,
            profile,
            tensor_parallel=degree,
            block_size=config.block_size,
            python_host=config.system is not System.FT,
        )
    return SimExecutor(price, BeamProcess(seed=seed), block_size=config.block_size)
