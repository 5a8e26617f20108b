"""Where a point runs: what every device that serves a model answers, and the simulated one.

Serving a workload cannot tell which it has: a simulated device, a model on this machine
(`bench.point.model`) or NVIDIA's library (`bench.point.ft_library`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.point.spec import PointSpec
from engines.core.clock import Clock, VirtualClock, WallClock
from engines.core.config import GIB, EngineConfig, System
from engines.core.executor import Executor
from engines.core.models import ModelSpec, find_model
from engines.sim.beams import NOVELTY, BeamProcess
from engines.sim.cost import StepCost
from engines.sim.executor import SimExecutor
from engines.sim.profile import DeviceProfile, load_profile
from engines.sim.slots import default_slots, paper_server

Progress = Callable[[float], None]  # called with the finished share, 0 to 1
# The original decodes these greedily, and draws the tokens of all others at random.
GREEDY_WORKLOADS = ("translation-1shot", "translation-5shot")


@dataclass(frozen=True, kw_only=True)
class Platform(ABC):
    """A device that serves one model; to be closed after use.

    `model` is its shape in the type that it is kept in, `device` the name that results show,
    `swap_bytes` the memory for swapped blocks.
    """

    model: ModelSpec
    device: str
    seed: int
    swap_bytes: int = 0

    @property
    @abstractmethod
    def default_slots(self) -> int:
        """KV slots that its memory holds; raises UserError if there is no room for any."""

    @abstractmethod
    def executor(self, config: EngineConfig) -> Executor:
        """Return what runs the batches of one engine."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What results depend on besides the spec and the workload."""

    def clock(self) -> Clock:
        """Return a clock that starts now."""
        return WallClock()

    def host_us_per_step(self, executor: Executor, *, wall_s: float, steps: int) -> float:
        """Mean microseconds of a step outside the model; NaN where it is not known."""
        del executor, wall_s, steps
        return float("nan")

    def close(self) -> None:  # noqa: B027 (most start nothing)
        """End what was started for it."""


@dataclass(frozen=True, kw_only=True)
class SimPlatform(Platform):
    """A device profile: the model is not run but priced."""

    profile: DeviceProfile
    tensor_parallel: int

    @property
    def default_slots(self) -> int:
        """See `Platform`."""
        return default_slots(self.model, self.profile, self.tensor_parallel)

    def executor(self, config: EngineConfig) -> Executor:
        """See `Platform`."""
        cost = StepCost(
            self.model,
            self.profile,
            tensor_parallel=self.tensor_parallel,
            block_size=config.block_size,
            python_host=config.system is not System.FT,
        )
        return SimExecutor(
            self.model,
            cost,
            BeamProcess(novelty=NOVELTY, seed=self.seed),
            tensor_parallel=self.tensor_parallel,
            block_size=config.block_size,
        )

    def replica(self, number: int) -> SimPlatform:
        """As many devices again, with random draws of their own, for replica `number` from 0."""
        if number == 0:
            return self
        child = np.random.SeedSequence(self.seed, spawn_key=(number,))
        return replace(self, seed=int(child.generate_state(1)[0]))

    def clock(self) -> Clock:
        """Time that steps advance."""
        return VirtualClock()

    def host_us_per_step(self, executor: Executor, *, wall_s: float, steps: int) -> float:
        """All of the simulation's own time is the host's."""
        del executor
        return 1e6 * wall_s / max(steps, 1)

    def inputs(self) -> dict[str, Any]:
        """The profile."""
        return {
            "device_profile": {
                "name": self.profile.name,
                "sha256": self.profile.sha256,
                "calibrated": dict(self.profile.calibrated),
            }
        }


def simulate(spec: PointSpec) -> SimPlatform:
    """The paper's server for the model unless the spec names another; raises UserError."""
    model = find_model(spec.model)
    server_profile, server_degree = paper_server(model)
    profile = load_profile(server_profile if spec.device_profile is None else spec.device_profile)
    if spec.trace is None and spec.workload in GREEDY_WORKLOADS:
        profile = replace(profile, draw_overhead_s=0.0)
    degree = server_degree if spec.tensor_parallel is None else spec.tensor_parallel
    return SimPlatform(
        model=replace(model, dtype_bytes=int(profile.element_bytes)),
        device=f"{degree}x {profile.name}",
        seed=spec.seed,
        swap_bytes=int(spec.swap_space_gib * GIB * degree),
        profile=profile,
        tensor_parallel=degree,
    )
