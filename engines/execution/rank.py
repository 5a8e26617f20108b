"""One rank of a model: the process that holds a slice and follows the driver's steps.

`engines.execution.ray_ranks` makes an actor of it.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is compiled

from engines.core.config import EngineConfig, ModelSpec
from engines.core.executor import StepResult
from engines.execution.collectives import TorchCommunicator, open_store, reach_store
from engines.execution.mirror import Mirror
from engines.execution.setup import LoadedModel, load
from engines.execution.step_message import Inputs, StepCodec
from engines.execution.step_reply import Output, StepReply
from engines.execution.torch_executor import Options, TorchExecutor
from engines.systems import create_scheduler


@dataclass(frozen=True)
class Slice:
    """What a rank tells of the slice that it has loaded. `slot_bytes` is a KV slot's part here."""

    spec: ModelSpec
    device_name: str
    dtype_name: str
    compiled_kernels: bool
    slot_bytes: int


@dataclass(frozen=True)
class RankPlace:
    """A rank's process and node (its address and id), and the version of its PyTorch."""

    pid: int
    node: str
    node_id: str
    torch: str


class Rank:
    """Loads a slice, keeps a copy of the batch, executes steps."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        self._rank, self._size = rank, size
        self._device = device
        self._store: TCPStore | None = None
        self._communicator: TorchCommunicator | None = None
        self._sharers = 1
        self._loaded: LoadedModel | None = None
        self._executor: TorchExecutor | None = None
        self._mirror: Mirror | None = None
        self._codec: StepCodec | None = None
        self._ended: float | None = None  # when the last step ended

    def place(self) -> RankPlace:
        """Where this rank runs."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        return RankPlace(os.getpid(), ray.util.get_node_ip_address(), node_id, torch.__version__)

    def open_store(self, host: str) -> int:
        """Let the others meet this rank, at the port that it returns."""
        self._store = open_store(host)
        return int(self._store.port)

    def join(self, host: str, port: int, sharers: int) -> None:
        """Meet the other ranks; `sharers` of them are on this rank's machine."""
        self._store = self._store or reach_store(host, port)
        self._sharers = sharers
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // sharers))
        device = torch.device(self._device, 0) if self._device == "cuda" else torch.device("cpu")
        self._communicator = TorchCommunicator.join(
            self._store, rank=self._rank, size=self._size, device=device
        )

    def load(self, name_or_path: str, dtype: str | None, seed: int) -> Slice:
        """Load this rank's slice, in place of another; raises UserError."""
        self._loaded = self._executor = None
        self._give_back()
        loaded = self._loaded = load(
            name_or_path,
            device=self._device,
            dtype=dtype,
            seed=seed,
            communicator=self._communicator,
            sharers=self._sharers,
        )
        return Slice(
            loaded.spec,
            loaded.device_name,
            loaded.dtype_name,
            loaded.compiled_kernels,
            loaded.shape.slot_bytes,
        )

    def default_slots(self, gpu_memory_bytes: int | None, max_batched_tokens: int) -> int:
        """KV slots that this rank has memory for; raises UserError."""
        return self._model().default_slots(
            gpu_memory_bytes=gpu_memory_bytes, max_batched_tokens=max_batched_tokens
        )

    def swap_slots(self, asked_bytes: int) -> int:
        """Slots in host memory, of at most `asked_bytes`."""
        return self._model().swap_bytes(asked_bytes) // self._model().shape.slot_bytes

    def open(self, config: EngineConfig, options: Options) -> None:
        """Get ready for the steps of a new engine; raises UserError."""
        self._executor = None  # its cache makes room
        self._give_back()
        self._executor = self._model().executor(config, options=options)
        self._mirror = Mirror(create_scheduler(config))
        self._codec = StepCodec(config.max_model_len)
        self._ended = None

    def step(self, message: bytes, inputs: Inputs | None) -> bytes | None:
        """Execute a step; returns rank 0's reply."""
        assert self._executor is not None, "the rank was not opened"
        assert self._mirror is not None
        assert self._codec is not None
        idle_s = 0.0 if self._ended is None else time.perf_counter() - self._ended
        model_s = self._executor.timing.model_s
        decoded = self._codec.decode(message)
        batch = self._mirror.follow(decoded, inputs or Inputs())
        result = self._executor.execute(batch)
        model_s = self._executor.timing.model_s - model_s
        reply = None
        if self._rank == 0:
            reply = self._reply(batch.step, result, model_s=model_s, idle_s=idle_s).encode()
        self._ended = time.perf_counter()
        return reply

    def _reply(self, step: int, result: StepResult, *, model_s: float, idle_s: float) -> StepReply:
        assert self._executor is not None
        outputs = [
            Output(
                s.group.request.request_id,
                s.index,
                s.cumulative_logprob,
                tuple(s.output_token_ids),
            )
            for s in self._executor.completed
        ]
        return StepReply(
            step,
            model_s,
            idle_s,
            tuple((f.group.request.request_id, tuple(f.parents)) for f in result.forks),
            tuple((s.group.request.request_id, s.index) for s in result.stopped),
            tuple(outputs),
        )

    def _give_back(self) -> None:
        """Let the device have back what is not used any more: what fits is asked of the device."""
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _model(self) -> LoadedModel:
        assert self._loaded is not None, "no model was loaded"
        return self._loaded
