"""Whole engine steps of chosen batches, timed: the real engine and executor, from step to step.

A batch of any context stands at once, because the steps that would fill the cache skip the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from engines.core.batch import Batch, Copy, Swap
from engines.core.clock import WallClock
from engines.core.config import EngineConfig, System
from engines.core.engine import Engine
from engines.core.executor import StepResult
from engines.core.request import Request
from engines.core.sampling import SamplingParams
from engines.core.stats import StepRecorder
from engines.execution.kv_cache import ORCA_BLOCK, CacheShape
from engines.execution.setup import LoadedModel
from engines.execution.torch_executor import Stopwatch, TorchExecutor
from engines.sim.cost import Work
from engines.sim.executor import work_of
from engines.sim.steps import StepRow
from engines.systems import create_scheduler

SYSTEMS = {"astra": System.ASTRA, "orca": System.ORCA_ORACLE, "ft": System.FT}
WARM_STEPS = {"cpu": 1, "cuda": 3}  # a CUDA graph is captured the second time that its steps run
FEW = 5  # rows, of which one step alone does not bring back a processor's caches
SWAP_BLOCKS = 256
SIZES_AROUND = 0.12  # of the tokens of prompts: how far a sample may be from what is asked for
_UNLIMITED = 1 << 30


class SkippingExecutor(TorchExecutor):
    """An executor whose model is left out while `skips`; `works` are the batches since."""

    skips = False

    def __init__(self, loaded: LoadedModel, config: EngineConfig, shape: CacheShape) -> None:
        super().__init__(loaded.model, loaded.kernels, config, shape=shape)
        self.works: list[Work] = []

    def execute(self, batch: Batch) -> StepResult:
        """See `TorchExecutor.execute`."""
        self.works.append(work_of(batch, self._config.block_size))
        return super().execute(batch)

    def _run(self, batch: Batch) -> tuple[Tensor, Stopwatch]:
        if not self.skips:
            return super()._run(batch)
        self.rows.advance(batch.num_decodes)
        watch = Stopwatch(self._model.device)
        watch.stop()
        size = (len(self.rows), self._model.spec.vocab_size)
        return torch.zeros(size, dtype=self._model.dtype, device=self._model.device), watch

    def time_move(self, kind: str, blocks: int) -> float:
        """Seconds of copying or swapping as many blocks."""
        cache, size = self._cache, self._config.block_size
        if kind == "copy":
            copies = [Copy(i * size, (blocks + i) * size, size) for i in range(blocks)]
            if self._config.system is not System.ASTRA:  # whose sequences lie in one piece
                copies = [Copy(0, blocks * size, blocks * size)]
            return self._timed(lambda: cache.copy(copies))
        swaps = [Swap(i, i) for i in range(blocks)]
        return self._timed(lambda: getattr(cache, kind)(swaps))

    def _timed(self, move: Callable[[], None]) -> float:
        started = time.perf_counter()
        move()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        return time.perf_counter() - started


def filled_shape(loaded: LoadedModel, num_slots: int) -> CacheShape:
    """Memory for a cache of as many slots of any system, full of numbers like a model's.

    Memory that nobody set may hold numbers with which a processor is slow.
    """
    shape, model = loaded.shape, loaded.model
    size = (num_slots + ORCA_BLOCK) * shape.slot_bytes // shape.dtype.itemsize
    memory = torch.empty(size, dtype=shape.dtype, device=model.device).normal_()
    return replace(shape, memory=memory)


class StepProbe:
    """Times steps of one system ("astra", "orca" or "ft") with a loaded model.

    Probes of several systems may share a shape's memory: none leaves anything there for later.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        shape: CacheShape,
        system: str,
        *,
        num_slots: int,
        block_size: int = 16,
    ) -> None:
        self._warm = WARM_STEPS[loaded.model.device.type]
        self._system, self._block_size = system, block_size
        self._context = loaded.spec.max_positions
        config = EngineConfig(
            system=SYSTEMS[system],
            num_slots=num_slots,
            swap_slots=SWAP_BLOCKS * block_size if system == "astra" else 0,
            block_size=block_size,
            max_batched_tokens=_UNLIMITED,
            max_num_seqs=1024,
            max_batch_size=1024,
            max_model_len=self._context,
            share_prefix=system == "astra",
            watermark=0.0,
        )
        self._executor = SkippingExecutor(loaded, config, shape)
        self._engine = Engine(
            create_scheduler(config), self._executor, WallClock(), recorder=StepRecorder(0.0, 0.0)
        )
        self.shared_tokens = 0  # of the last decode steps, in blocks that several sequences read
        self._next_id = 0
        self._sizes: set[int] = set()  # rows of the steps with prompts so far

    @torch.inference_mode()
    def time_steps(
        self, wanted: StepRow, samples: int, between: Callable[[], object]
    ) -> list[float]:
        """Seconds of steps like `wanted`, whose own seconds do not matter; none if it is too large.

        Of a step with prompts and of moving blocks each sample is a step of its own; decode steps
        follow each other, and the middle one has the context that is asked for. `between` is called
        before each sample and after the last.
        """
        match wanted.kind:
            case "prompt":
                times = self._prompts(wanted, samples, between)
            case "copy" | "swap_in" | "swap_out":
                times = [self._move(wanted, between) for _ in range(samples + 1)][1:]
            case _:
                times = self._decodes(wanted, samples, between)
        between()
        return times

    @property
    def copied_blocks(self) -> int:
        """Blocks that the last step copied."""
        return self._executor.works[-1].copied_blocks

    def _move(self, wanted: StepRow, between: Callable[[], object]) -> float:
        between()
        return self._executor.time_move(wanted.kind, wanted.blocks)

    def _decodes(self, wanted: StepRow, samples: int, between: Callable[[], object]) -> list[float]:
        sampling = SamplingParams()
        if wanted.kind == "beam":
            sampling = SamplingParams(n=wanted.sequences // wanted.groups, beam=True)
        elif wanted.kind == "draw":
            sampling = SamplingParams(n=wanted.sequences // wanted.groups, temperature=1.0)
        warm = self._warm + FEW // wanted.sequences
        steps = warm + samples
        times: list[float] = []
        if self._fill(wanted, sampling, before=warm + (samples + 1) // 2, steps=steps):
            times = [self._step(between) for _ in range(steps)]
            running = [s for group in self._engine.scheduler.running for s in group.running]
            tables = [s.table for s in running]
            entries = sum(map(len, tables)) - len(set().union(*tables))
            self.shared_tokens = entries * self._block_size
        self._drain()
        return times[warm:]

    def _prompts(self, wanted: StepRow, samples: int, between: Callable[[], object]) -> list[float]:
        steps = 1 + samples
        times: list[float] = []
        if self._fill(wanted, SamplingParams(), before=(samples + 1) // 2, steps=steps):
            self._warm_prefix(wanted.cached)
            for sample in range(samples + 1):  # the first only wakes the executor up
                size = self._new_size(wanted) if sample else wanted.prompts
                new, longer = divmod(size, wanted.prompts)
                for i in range(wanted.prompts):
                    self._add(wanted.cached + new + (i < longer), 1, prefix=wanted.cached)
                times.append(self._step(between))
        self._drain()
        return times[1:]

    def _new_size(self, wanted: StepRow) -> int:
        """Tokens near the wanted ones whose step has a size that no step had yet, if there is one.

        A CPU's matrix products are prepared for each new number of rows, which a prompt's step
        mostly has when serving: the same size again would be up to a tenth faster.
        """
        most = int(SIZES_AROUND * wanted.tokens)
        for distance in (0, *(sign * i for i in range(1, most + 1) for sign in (1, -1))):
            rows = wanted.sequences + wanted.tokens + distance
            if rows not in self._sizes:
                self._sizes.add(rows)
                return wanted.tokens + distance
        return wanted.tokens

    def _warm_prefix(self, prefix: int) -> None:
        """Let the cache hold a prefix, and take a step if not even that."""
        if prefix:
            self._executor.skips = True
            self._add(prefix + 1, 1, prefix=prefix)
            self._engine.step()
            self._executor.skips = False

    def _fill(self, wanted: StepRow, sampling: SamplingParams, *, before: int, steps: int) -> bool:
        """Let sequences run that will have the wanted context after `before` steps."""
        if not wanted.sequences:
            return True
        groups = wanted.sequences // sampling.n
        total = wanted.context // sampling.n - groups * before
        if self._system == "ft":  # its context counts padding up to the longest prompt
            lengths = [max(1, total // groups * (i + 1) // groups) for i in range(groups)]
        else:
            lengths = [total // groups + (i < total % groups) for i in range(groups)]
            lengths = lengths if wanted.cached else _spread(lengths)
        if min(lengths) < 1 or max(lengths) + steps + 1 > self._context - 8:
            return False
        self._executor.skips = True
        prefix = 0 if wanted.prompts else wanted.cached // max(wanted.sequences - 1, 1)
        for length in lengths:
            self._add(length, steps + 2, prefix=prefix, sampling=sampling)  # none ends in a step
        self._engine.step()
        self._executor.skips = False
        return len(self._engine.scheduler.running) == groups

    def _add(
        self, prompt: int, output: int, *, prefix: int = 0, sampling: SamplingParams | None = None
    ) -> None:
        request = Request(self._next_id, 0.0, prompt, output, sampling or SamplingParams(), prefix)
        self._next_id += 1
        self._engine.add_request(request)

    def _step(self, between: Callable[[], object]) -> float:
        between()
        started = time.perf_counter()
        self._engine.step()
        return time.perf_counter() - started

    def _drain(self) -> None:
        self._executor.skips = True
        while self._engine.has_work:
            self._engine.step()
        self._executor.skips = False
        del self._executor.works[:-1]


def _spread(lengths: list[int]) -> list[int]:
    """Lengths of the same sum, from half to one and a half of theirs: no batch is all alike."""
    found = list(lengths)
    for i in range(len(found) // 2):
        moved = found[i] * (i + 1) // (len(found) + 2)
        found[i] -= moved
        found[-1 - i] += moved
    return found
