"""Puts a real executor together: model, kernels, a KV cache that fits, and the device's name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch

from engines.core.clock import Clock, WallClock
from engines.core.config import GIB, EngineConfig
from engines.core.errors import UserError, unknown_name
from engines.core.models import ModelSpec
from engines.execution import varlen
from engines.execution.collectives import RankClock
from engines.execution.device import device_name
from engines.execution.kv_cache import CacheShape
from engines.execution.torch_executor import Options, TorchExecutor
from engines.kernels.interface import Kernels
from engines.kernels.library import load_kernels
from engines.kernels.reference import ReferenceKernels
from engines.kernels.swap import usable_bytes
from engines.models.interfaces import Communicator, Model
from engines.models.load import DTYPES, load_model
from engines.models.memory import free_memory_bytes
from engines.sim.slots import UTILISATION, WORKSPACE_BYTES, activation_bytes

logger = logging.getLogger(__name__)

KERNEL_HEAD_SIZES = (64, 80, 96, 128, 256)
CPU_CACHE_BYTES = 4 * GIB  # the default cache on a CPU, if half of the free memory is more
DEFAULT_DTYPES = {"cpu": "float32", "cuda": "float16"}


@dataclass(frozen=True)
class LoadedModel:
    """A model in the memory of one device, or the slices of one on several, with their kernels.

    What several ranks are asked, all must be asked: they answer alike.
    """

    model: Model
    kernels: Kernels
    communicator: Communicator = field(default_factory=Communicator)

    @property
    def spec(self) -> ModelSpec:
        """Its shape, in the type that it is loaded in."""
        return self.model.spec

    @property
    def device_name(self) -> str:
        """The devices as results name them."""
        names = self.communicator.gather_values(device_name(self.model.device))
        several = f"{len(names)}x " if len(names) > 1 else ""
        return several + " / ".join(sorted(set(names)))

    @property
    def dtype_name(self) -> str:
        """The type of weights and cache."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def compiled_kernels(self) -> bool:
        """Whether its kernels are compiled ones, on all ranks."""
        return all(self.communicator.gather_values(self.kernels.compiled))

    @property
    def shape(self) -> CacheShape:
        """What a slot of its KV cache holds."""
        return CacheShape.of(self.model)

    def default_slots(self, *, gpu_memory_bytes: int | None, max_batched_tokens: int) -> int:
        """KV slots in tokens that every device has memory for.

        By the original's rule: 95 % of the memory, less a workspace, the activations of the largest
        batch and whatever is in use. `gpu_memory_bytes` stands in for a smaller device, on which
        only this model is. On a CPU without it: 4 GiB, or half of what is free.

        Raises UserError if nothing is left.
        """
        degree = self.communicator.size
        activations = activation_bytes(self.spec, degree, max_batched_tokens)
        sharers = self.communicator.local_size
        budget = _cache_budget(self.model, activations, gpu_memory_bytes, sharers)
        slots = min(self.communicator.gather_values(budget // self.shape.slot_bytes))
        if slots < 1:
            raise UserError(
                f"{self.spec.name} leaves no memory for a KV cache beside "
                f"{self.model.weight_bytes / GIB:.1f} GiB of weights and {activations / GIB:.1f} "
                "GiB of activations: raise --gpu-memory, lower --max-batched-tokens or take a "
                "smaller model"
            )
        return slots

    def swap_bytes(self, asked: int, block_size: int) -> int:
        """Host memory for swapped blocks of all ranks.

        As asked for on each, but what is pinned for them takes at most half of what is free.
        """
        free, slot_bytes = free_memory_bytes(torch.device("cpu")), self.shape.slot_bytes
        if free is not None:
            limit = free // 2 // self.communicator.local_size
            asked = min(asked, usable_bytes(limit, block_size * slot_bytes))
        slots = min(self.communicator.gather_values(asked // slot_bytes))
        return asked if self.communicator.size == 1 else slots * self.spec.kv_bytes_per_token

    @property
    def prompt_attention(self) -> str:
        """What computes prompts' attention: "flash", "xformers" or "own"."""
        model = self.model
        chosen = varlen.choose(model.device, model.dtype, model.spec.head_size)
        return " / ".join(sorted(set(self.communicator.gather_values(chosen or "own"))))

    def clock(self) -> Clock:
        """A clock that starts now; the same on all ranks."""
        if self.communicator.size == 1:
            return WallClock()
        return RankClock(self.communicator, self.model.device)

    def executor(self, config: EngineConfig, *, options: Options | None = None) -> TorchExecutor:
        """Allocate an executor's cache and tables; raises UserError if they are too large."""
        shape, free_bytes = self.shape, free_memory_bytes(self.model.device)
        if free_bytes is not None and config.num_slots * shape.slot_bytes > free_bytes:
            raise _too_large(shape, config, free_bytes)
        try:
            return TorchExecutor(
                self.model, self.kernels, config, options=options, communicator=self.communicator
            )
        except MemoryError:
            raise UserError(
                f"no memory for the tables of {config.max_num_seqs:,} sequences: lower "
                "--max-num-seqs"
            ) from None
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise _too_large(shape, config, free_memory_bytes(shape.device) or 0) from None


def load(
    name_or_path: str,
    *,
    device: str,
    dtype: str | None = None,
    seed: int = 0,
    communicator: Communicator | None = None,
) -> LoadedModel:
    """Load a model, or this rank's slice, onto "cpu" or "cuda".

    Raises UserError for whatever the device lacks.
    """
    communicator = communicator or Communicator()
    model = load_model(
        name_or_path,
        dtype=choose_dtype(device, dtype),
        device=device,
        communicator=communicator,
        seed=seed,
    )
    return LoadedModel(model, choose_kernels(model), communicator)


def choose_dtype(device: str, name: str | None) -> torch.dtype:
    """The type of that name (None: the device's usual one); raises UserError."""
    name = name or DEFAULT_DTYPES[device]
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    if device == "cpu" and name == "float16":
        raise UserError("the CPU computes in float32 and bfloat16: float16 needs --backend cuda")
    return DTYPES[name]


def choose_kernels(model: Model) -> Kernels:
    """The device's compiled kernels, or the reference for heads of other sizes than they take."""
    head_size = model.spec.head_size
    if head_size not in KERNEL_HEAD_SIZES:
        sizes = ", ".join(map(str, KERNEL_HEAD_SIZES))
        logger.warning(
            "heads of size %d run on the PyTorch reference, slowly: kernels take %s",
            *(head_size, sizes),
        )
        return ReferenceKernels()
    return load_kernels(model.device.type)


def _cache_budget(model: Model, activations: int, limit_bytes: int | None, sharers: int) -> int:
    """Bytes for the cache, if `sharers` ranks share a CPU's memory."""
    free = free_memory_bytes(model.device)
    if free is not None and model.device.type == "cpu":
        free //= sharers
    fixed = WORKSPACE_BYTES + activations
    if limit_bytes is not None:
        budget = int(UTILISATION * limit_bytes) - model.weight_bytes - fixed
        return budget if free is None else min(budget, free)
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
        assert free is not None, "CUDA always tells its free memory"
        return int(UTILISATION * total) - (total - free) - fixed
    usual = CPU_CACHE_BYTES // sharers
    return usual if free is None else min(usual, free // 2)


def _too_large(shape: CacheShape, config: EngineConfig, free_bytes: int) -> UserError:
    needed = config.num_slots * shape.slot_bytes / GIB
    return UserError(
        f"a KV cache of {config.num_slots} slots needs {needed:.1f} GiB, {shape.device} has "
        f"{free_bytes / GIB:.1f} GiB free: lower --kv-slots to "
        f"{int(0.9 * free_bytes) // shape.slot_bytes} or fewer"
    )
