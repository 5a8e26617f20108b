"""Where a point runs: a simulated device, or a model on this machine.

Both answer the same questions, so that serving a workload cannot tell which it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from bench.point.ft_library import has_library, load_library
from bench.point.spec import PointSpec
from engines.core.clock import Clock, VirtualClock
from engines.core.config import (
    GIB,
    MOST_KV_SLOTS,
    EngineConfig,
    ModelSpec,
    Preemption,
    System,
    find_model,
)
from engines.core.errors import UserError
from engines.core.executor import Executor
from engines.core.request import SamplingParams
from engines.sim.beams import NOVELTY, BeamProcess
from engines.sim.cost import StepCost
from engines.sim.executor import SimExecutor
from engines.sim.profile import DeviceProfile, load_profile
from engines.sim.slots import default_slots, paper_server

if TYPE_CHECKING:
    from engines.execution.setup import LoadedModel
    from engines.execution.torch_executor import TorchExecutor
    from engines.models.interfaces import Communicator

T = TypeVar("T")
Progress = Callable[[float], None]
ORCA_MAX_SEQS = 256
ASTRA_MAX_SEQS = 2048
# The original decodes these greedily, and draws the tokens of all others at random.
GREEDY_WORKLOADS = ("translation-1shot", "translation-5shot")


class Platform(Protocol):
    """A device that serves one model."""

    @property
    def model(self) -> ModelSpec:
        """The model's shape, in the type that it is kept in."""

    @property
    def device(self) -> str:
        """The device's name as results show it."""

    @property
    def default_slots(self) -> int:
        """KV slots that its memory holds; raises UserError if there is no room for any."""

    @property
    def swap_bytes(self) -> int:
        """Memory for swapped blocks."""

    def executor(self, config: EngineConfig) -> Executor:
        """Return what runs the batches of one engine."""

    def clock(self) -> Clock:
        """Return a clock that starts now."""

    def host_us_per_step(self, executor: Executor, *, wall_s: float, steps: int) -> float:
        """Mean microseconds of a step outside the model."""

    def inputs(self) -> dict[str, Any]:
        """What results depend on besides the spec and the workload."""

    def close(self) -> None:
        """End what was started for it."""


@dataclass(frozen=True)
class SimPlatform:
    """A device profile: the model is not run but priced."""

    model: ModelSpec
    profile: DeviceProfile
    tensor_parallel: int
    swap_bytes: int
    seed: int

    @property
    def device(self) -> str:
        """Number of devices and the profile's name."""
        return f"{self.tensor_parallel}x {self.profile.name}"

    @property
    def default_slots(self) -> int:
        """See `Platform.default_slots`."""
        return default_slots(self.model, self.profile, self.tensor_parallel)

    def executor(self, config: EngineConfig) -> Executor:
        """See `Platform.executor`."""
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

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True)
class RealPlatform:
    """A model in the memory of this machine's CPU or GPU, or a rank's slice of it."""

    loaded: LoadedModel
    spec: PointSpec

    @property
    def model(self) -> ModelSpec:
        """See `Platform.model`."""
        return self.loaded.spec

    @property
    def device(self) -> str:
        """See `Platform.device`."""
        return self.loaded.device_name

    @property
    def default_slots(self) -> int:
        """See `Platform.default_slots`."""
        memory = self.spec.gpu_memory
        return self.loaded.default_slots(
            gpu_memory_bytes=None if memory is None else memory.num_bytes,
            max_batched_tokens=self.spec.max_batched_tokens,
        )

    @property
    def swap_bytes(self) -> int:
        """As asked for on each device, but at most half of the host's free memory."""
        return self.loaded.swap_bytes(int(self.spec.swap_space_gib * GIB))

    def executor(self, config: EngineConfig, *, logprobs: bool = False) -> TorchExecutor:
        """See `Platform.executor`; `logprobs` adds up the probabilities of chosen tokens."""
        from engines.execution.torch_executor import Options

        return self.loaded.executor(config, options=Options(seed=self.spec.seed, logprobs=logprobs))

    def clock(self) -> Clock:
        """The wall's; rank 0's on all ranks."""
        return self.loaded.clock()

    def host_us_per_step(self, executor: Executor, *, wall_s: float, steps: int) -> float:
        """Time in the executor outside the model's forward passes."""
        del wall_s, steps
        real: Any = executor
        return float(real.timing.host_us_per_step)

    def inputs(self) -> dict[str, Any]:
        """The type of weights and cache, and whether the kernels are compiled."""
        return {
            "dtype": self.loaded.dtype_name,
            "compiled_kernels": self.loaded.compiled_kernels,
        }

    def close(self) -> None:
        """Nothing was started."""


def find_platform(spec: PointSpec) -> Platform:
    """Find the device of a point, with its model ready; see `load_platform`."""
    if not spec.measured:
        return _simulated(spec)
    if has_library(spec):
        return load_library(spec)
    return load_platform(spec)


def load_platform(spec: PointSpec, communicator: Communicator | None = None) -> RealPlatform:
    """Load the point's model, or a rank's slice, onto this machine's CPU or GPU.

    To be closed after use. Raises UserError.
    """
    if not spec.measured:
        raise UserError(f"backend '{spec.backend}' runs no model: use --backend cpu or cuda")
    with _torch_needed(spec):
        from engines.execution.setup import load

        loaded = load(
            spec.model,
            device=spec.backend,
            dtype=spec.dtype,
            seed=spec.seed,
            communicator=communicator,
        )
    return RealPlatform(loaded, spec)


def needs_ranks(spec: PointSpec, *, ray: str) -> bool:
    """Whether the point's model runs in slices; raises UserError for a cluster nobody would use."""
    if spec.measured and (spec.tensor_parallel or 1) > 1 and not has_library(spec):
        return True
    if ray != "local":
        raise UserError(
            f"--ray {ray} counts only for a model in slices: give --tensor-parallel 2 or more with "
            "--backend cpu or cuda"
        )
    return False


def run_on_ranks(
    work: Callable[..., T],
    spec: PointSpec,
    *args: Any,
    ray: str,
    on_progress: Progress | None = None,
) -> T:
    """Call `work(platform, spec, *args, on_progress=...)` on each rank of the Ray cluster `ray`.

    Returns rank 0's result. Raises UserError, where possible before any rank is started.
    """
    degree = spec.tensor_parallel or 1
    with _torch_needed(spec):
        from engines.execution.ranks import start_ranks
        from engines.execution.setup import choose_dtype
        from engines.models.load import describe_model, require_divisible

    choose_dtype(spec.backend, spec.dtype)
    require_divisible(describe_model(spec.model)[0], degree)
    with start_ranks(degree, spec.backend, ray) as ranks:
        result: T = ranks.run(_work_on_rank, work, spec, args, on_progress=on_progress)
    return result


def _work_on_rank(
    communicator: Communicator,
    on_progress: Progress,
    work: Callable[..., T],
    spec: PointSpec,
    args: tuple[Any, ...],
) -> T:
    return work(load_platform(spec, communicator), spec, *args, on_progress=on_progress)


@contextmanager
def _torch_needed(spec: PointSpec) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            f"backend '{spec.backend}' needs PyTorch, which is not installed: install it "
            f"(make install BACKEND={spec.backend}), or use --backend sim"
        ) from None


def engine_config(spec: PointSpec, platform: Platform, sampling: SamplingParams) -> EngineConfig:
    """Fill in a point's defaults: slots from memory, and the system's limits."""
    model = platform.model
    num_slots = platform.default_slots if spec.kv_slots is None else spec.kv_slots
    max_seqs = ASTRA_MAX_SEQS
    if spec.system in (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX) or spec.share_prefix:
        max_seqs = ORCA_MAX_SEQS
    # Groups of one sequence that may be recomputed never swap: they need no memory for it.
    swaps = sampling.n > 1 or spec.preemption is Preemption.SWAP or not spec.measured
    return EngineConfig(
        system=spec.system,
        num_slots=num_slots,
        swap_slots=_swap_slots(platform) if swaps else 0,
        block_size=spec.block_size,
        max_batched_tokens=spec.max_batched_tokens,
        max_num_seqs=max_seqs if spec.max_num_seqs is None else spec.max_num_seqs,
        max_batch_size=(
            max(1, num_slots * spec.shrink // model.max_positions)
            if spec.max_batch_size is None
            else spec.max_batch_size
        ),
        max_model_len=model.max_positions // spec.shrink,
        preemption=spec.preemption,
        share_prefix=spec.share_prefix,
    )


def _swap_slots(platform: Platform) -> int:
    """KV slots that the swap space holds; raises UserError if lists of them would not fit here."""
    slots = platform.swap_bytes // platform.model.kv_bytes_per_token
    if slots > MOST_KV_SLOTS:
        raise UserError(
            f"swap space of {platform.swap_bytes / GIB:,.0f} GiB holds more than "
            f"{MOST_KV_SLOTS:,} KV slots of {platform.model.name}: lower --swap-space"
        )
    return slots


def _simulated(spec: PointSpec) -> SimPlatform:
    """The paper's server for the model unless the spec names another."""
    model = find_model(spec.model)
    server_profile, server_degree = paper_server(model)
    profile = load_profile(server_profile if spec.device_profile is None else spec.device_profile)
    model = replace(model, dtype_bytes=int(profile.element_bytes))
    if spec.trace is None and spec.workload in GREEDY_WORKLOADS:
        profile = replace(profile, draw_overhead_s=0.0)
    degree = server_degree if spec.tensor_parallel is None else spec.tensor_parallel
    return SimPlatform(model, profile, degree, int(spec.swap_space_gib * GIB * degree), spec.seed)
