"""A model on several ranks, and the executor that drives them from the scheduler's process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.batch import Batch
from engines.core.config import MODELS, EngineConfig, ModelSpec
from engines.core.executor import Fork, StepResult
from engines.core.journal import Event, Journal, Op
from engines.core.kv import KVManager
from engines.core.request import SequenceGroup
from engines.execution.rank import Slice
from engines.execution.ray_ranks import RankPlan, RayRanks
from engines.execution.setup import choose_dtype
from engines.execution.step_message import StepCodec, StepWriter, Totals
from engines.execution.step_reply import StepReply
from engines.execution.torch_executor import Options, Timing
from engines.models.load import describe_model, require_divisible


@dataclass
class ParallelTiming(Timing):
    """Where the time of all steps went, in seconds.

    `total_s` is the ranks' time for the steps one after another, transport included. Between steps
    the driver worked for `driver_s`, `hidden_s` of it while a step was under way, and rank 0 had
    nothing to do for `idle_s`.
    """

    driver_s: float = 0.0
    hidden_s: float = 0.0
    idle_s: float = 0.0


class ParallelModel:
    """A model whose slices lie on the ranks; the face of `LoadedModel` towards a driver."""

    def __init__(self, ranks: RayRanks, slices: Sequence[Slice]) -> None:
        self._ranks = ranks
        self._slices = slices

    @property
    def spec(self) -> ModelSpec:
        """Its shape, in the type that it is loaded in."""
        return self._slices[0].spec

    @property
    def device_name(self) -> str:
        """The ranks' devices as results name them."""
        names = sorted({part.device_name for part in self._slices})
        return f"{self._ranks.degree}x {' / '.join(names)}"

    @property
    def dtype_name(self) -> str:
        """The type of weights and cache."""
        return self._slices[0].dtype_name

    @property
    def compiled_kernels(self) -> bool:
        """Whether all ranks have compiled kernels."""
        return all(part.compiled_kernels for part in self._slices)

    def default_slots(self, *, gpu_memory_bytes: int | None, max_batched_tokens: int) -> int:
        """KV slots in tokens that every rank has memory for; raises UserError."""
        return int(min(self._ranks.ask("default_slots", gpu_memory_bytes, max_batched_tokens)))

    def swap_bytes(self, asked: int) -> int:
        """Host memory of all ranks for swapped blocks, of `asked` bytes on each."""
        return int(min(self._ranks.ask("swap_slots", asked))) * self.spec.kv_bytes_per_token

    def executor(self, config: EngineConfig, *, options: Options | None = None) -> ParallelExecutor:
        """Allocate the ranks' caches for an executor; raises UserError if one is too large."""
        self._ranks.ask("open", config, options or Options())
        return ParallelExecutor(self._ranks, config)

    def close(self) -> None:
        """End the ranks."""
        self._ranks.close()


def start_and_load(
    name_or_path: str, plan: RankPlan, *, dtype: str | None = None, seed: int = 0
) -> ParallelModel:
    """Start ranks and load a model onto them; raises UserError, if it can before it starts any."""
    choose_dtype(plan.device, dtype)
    require_divisible(describe_model(name_or_path)[0], plan.degree)
    return load_onto(RayRanks.start(plan), name_or_path, dtype=dtype, seed=seed)


def load_onto(
    ranks: RayRanks, name_or_path: str, *, dtype: str | None = None, seed: int = 0
) -> ParallelModel:
    """Let each rank load its slice; ends the ranks and raises UserError where one cannot.

    A checkpoint must lie under the same path on all nodes.
    """
    if name_or_path not in MODELS:
        name_or_path = str(Path(name_or_path).resolve())
    return ParallelModel(ranks, ranks.ask("load", name_or_path, dtype, seed))


@dataclass(frozen=True)
class _Step:
    """A step that the ranks work on."""

    calls: Sequence[Any]
    sent_s: float


class ParallelExecutor:
    """Sends each step's changes to the ranks and takes in what rank 0 tells of the step before."""

    def __init__(self, ranks: RayRanks, config: EngineConfig) -> None:
        self.timing = ParallelTiming()
        self._ranks = ranks
        self._journal = Journal()
        self._writer = StepWriter()
        self._codec = StepCodec(config.max_model_len)
        self._kv: KVManager | None = None
        self._groups: dict[int, SequenceGroup] = {}  # whose outputs are to come, by request id
        self._under_way: _Step | None = None
        self._ended_s = 0.0  # when the last step ended that is known to have
        self._returned_s: float | None = None  # when the driver was last left to itself

    def follow(self, kv: KVManager) -> None:
        """See `RemoteExecutor.follow`."""
        self._kv = kv
        self._journal.watch(kv)

    def execute(self, batch: Batch) -> StepResult:
        """Start the step and wait for the one before; raises LostWorkerError if a rank dies."""
        assert self._kv is not None, "the manager was not followed from the start"
        events = self._journal.take()
        totals = Totals.of(batch, self._kv.usage(batch).used)
        message, inputs = self._writer.write(totals, events)
        calls = self._ranks.send("step", self._codec.encode(message), inputs or None)
        before, self._under_way = self._under_way, _Step(calls, time.perf_counter())
        self._note_driver(hidden=before is not None)
        self._expect(events)
        if before is not None:
            self._take(before)
        self._forget(events)
        self._returned_s = time.perf_counter()
        return StepResult(0.0, [], [])

    def finish(self) -> StepResult:
        """See `RemoteExecutor.finish`; raises LostWorkerError if a rank dies."""
        step, self._under_way = self._under_way, None
        assert step is not None, "no step is under way"
        result = self._take(step)
        self._returned_s = time.perf_counter()
        return result

    def _take(self, step: _Step) -> StepResult:
        """Wait for a step and hand over the outputs that it completed."""
        answer, *_ = self._ranks.receive(step.calls)
        reply = StepReply.decode(answer)
        now = time.perf_counter()
        elapsed_s = now - max(step.sent_s, self._ended_s)
        self._ended_s = now
        timing = self.timing
        timing.steps += 1
        timing.total_s += elapsed_s
        timing.model_s += reply.model_s
        timing.idle_s += reply.idle_s
        groups = self._groups
        for output in reply.outputs:
            sequence = groups[output.request_id].sequences[output.index]
            sequence.output_token_ids = list(output.token_ids)
            sequence.cumulative_logprob = output.logprob
        return StepResult(
            elapsed_s,
            [Fork(groups[request_id], parents) for request_id, parents in reply.forks],
            [groups[request_id].sequences[index] for request_id, index in reply.stopped],
        )

    def _expect(self, events: Sequence[Event]) -> None:
        """Remember the groups that start."""
        for event in events:
            if event.op is Op.ADMIT and event.group is not None:
                self._groups[event.group.request.request_id] = event.group

    def _forget(self, events: Sequence[Event]) -> None:
        """Forget the groups that ended with the step before, whose outputs are all here."""
        for event in events:
            if event.op is Op.FINISH and event.group is not None and not event.group.running:
                self._groups.pop(event.group.request.request_id, None)

    def _note_driver(self, *, hidden: bool) -> None:
        """Count the time since the driver was left to itself, for all that led to this step."""
        if self._returned_s is None:
            return
        spent_s = time.perf_counter() - self._returned_s
        self.timing.driver_s += spent_s
        self.timing.hidden_s += spent_s if hidden else 0.0
