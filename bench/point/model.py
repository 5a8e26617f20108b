"""Points that run a model, in the memory of this machine's CPU or GPU or in slices on ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from bench.point.ft_library import has_library
from bench.point.platform import Platform, Progress
from bench.point.spec import PointSpec
from engines.core.config import GIB
from engines.core.errors import UserError

if TYPE_CHECKING:
    from engines.execution.setup import LoadedModel
    from engines.models.interfaces import Communicator

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelPlatform(Platform):
    """A model in the memory of this machine's CPU or GPU, or a rank's slice of it."""

    loaded: LoadedModel


def require_torch(backend: str) -> None:
    """Raise UserError unless PyTorch is installed, which a backend that runs models needs."""
    if find_spec("torch") is None:
        raise UserError(
            f"backend '{backend}' needs PyTorch, which is not installed: install it "
            f"(make install BACKEND={backend}), or use --backend sim"
        )


def load_platform(spec: PointSpec, communicator: Communicator | None = None) -> ModelPlatform:
    """Load the point's model, or a rank's slice, onto this machine's CPU or GPU.

    Swap space is as asked for on each device, but at most half of the host's free memory. Raises
    UserError.
    """
    if not spec.measured:
        raise UserError(f"backend '{spec.backend}' runs no model: use --backend cpu or cuda")
    require_torch(spec.backend)
    from engines.execution.setup import load
    from engines.execution.torch_executor import Options

    loaded = load(
        spec.model,
        device=spec.backend,
        dtype=spec.dtype,
        seed=spec.seed,
        communicator=communicator,
    )
    return ModelPlatform(
        model=loaded.spec,
        device=loaded.device_name,
        inputs={
            "dtype": loaded.dtype_name,
            "compiled_kernels": loaded.compiled_kernels,
            "prompt_attention": loaded.prompt_attention,
        },
        default_slots=partial(
            loaded.default_slots,
            gpu_memory_bytes=None if spec.gpu_memory is None else spec.gpu_memory.num_bytes,
            max_batched_tokens=spec.max_batched_tokens,
        ),
        create_executor=lambda config, seed: loaded.executor(config, options=Options(seed=seed)),
        create_clock=loaded.clock,  # the wall's; rank 0's on all ranks
        host_us_per_step=lambda executor, wall_s, steps: executor.timing.host_us_per_step,
        swap_bytes=loaded.swap_bytes(int(spec.swap_space_gib * GIB), spec.block_size),
        loaded=loaded,
    )


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
    require_torch(spec.backend)
    from engines.execution.ranks import start_ranks
    from engines.execution.setup import choose_dtype
    from engines.models.load import require_divisible
    from engines.models.spec import describe_model

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
