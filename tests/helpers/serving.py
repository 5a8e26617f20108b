"""Helpers of the engine's tests: tiny models and devices, and an executor that keeps real contents.

`ContentExecutor` stands in for a model. Every KV slot holds the token whose key and value it would
hold, copies and swaps move these, and in every step each running sequence is compared with its own
history: a block that is written while shared, freed too early or mapped wrongly shows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np

from engines.core.batch import Batch
from engines.core.beams import place_children
from engines.core.clock import VirtualClock
from engines.core.config import EngineConfig, Preemption, System
from engines.core.engine import Engine
from engines.core.executor import Executor, Fork, StepResult
from engines.core.models import ModelSpec
from engines.core.request import Request, Sequence, SequenceGroup
from engines.core.sampling import SamplingParams
from engines.core.scheduler import Scheduler
from engines.core.stats import StepRecorder
from engines.sim.beams import BeamProcess
from engines.sim.cost import StepCost
from engines.sim.executor import SimExecutor
from engines.sim.profile import DeviceProfile
from engines.systems import create_scheduler

ORCA = (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX)
TINY = ModelSpec("tiny", "opt", 2, 2, 8, 32, 100, max_positions=64)
PARAMETERS = [
    f.name
    for f in fields(DeviceProfile)
    if f.type == "float" and f.name not in ("memory_bytes", "element_bytes")
]
FREE_TIMES = [name for name in PARAMETERS if name.endswith("_s")]
FREE_RATES = [name for name in PARAMETERS if name not in FREE_TIMES]


def make_profile(**values: Any) -> DeviceProfile:
    """A device on which everything is free but what `values` says."""
    free: dict[str, Any] = {"name": "free", "memory_bytes": 1e12}
    free |= dict.fromkeys(FREE_RATES, math.inf) | dict.fromkeys(FREE_TIMES, 0.0)
    return DeviceProfile(**(free | values))


def make_config(system: str = "astra", **values: Any) -> EngineConfig:
    """A tiny engine's settings; swap space holds all that the device holds."""
    settings: dict[str, Any] = {"num_slots": 64, "block_size": 4, "max_model_len": 64}
    settings |= values
    settings.setdefault("swap_slots", settings["num_slots"])
    settings["preemption"] = Preemption(settings.get("preemption", "auto"))
    return EngineConfig(system=System(system), **settings)


def make_request(request_id: int, prompt_len: int, output_len: int, **values: Any) -> Request:
    """A request; `sampling` may be given by its name."""
    sampling = SamplingParams.parse(values.pop("sampling", "n1"))
    return Request(
        request_id, values.pop("arrival_s", 0.0), prompt_len, output_len, sampling, **values
    )


def make_engine(
    config: EngineConfig,
    executor: Executor | None = None,
    *,
    profile: DeviceProfile | None = None,
    window_s: tuple[float, float] = (0.0, math.inf),
) -> Engine:
    """An engine on virtual time; without an executor, priced by `profile` (1 s a step)."""
    if executor is None:
        executor = make_sim(config, profile or make_profile(step_overhead_s=1.0))
    return Engine(
        create_scheduler(config), executor, VirtualClock(), recorder=StepRecorder(*window_s)
    )


def make_sim(
    config: EngineConfig, profile: DeviceProfile, model: ModelSpec = TINY, *, degree: int = 1
) -> SimExecutor:
    """The simulation's executor for a tiny model."""
    cost = StepCost(
        model,
        profile,
        tensor_parallel=degree,
        block_size=config.block_size,
        python_host=config.system is not System.FT,
    )
    return SimExecutor(cost, BeamProcess(seed=0), block_size=config.block_size)


def drive(engine: Engine, requests: Iterable[Request], *, max_steps: int) -> list[SequenceGroup]:
    """Serve requests as they arrive; returns the groups in the order in which they finished."""
    upcoming = sorted(requests, key=lambda r: (r.arrival_s, r.request_id))
    finished: list[SequenceGroup] = []
    while upcoming or engine.has_work:
        while upcoming and upcoming[0].arrival_s <= engine.clock.now:
            engine.add_request(upcoming.pop(0))
        if not engine.has_work:
            engine.clock.wait_until(upcoming[0].arrival_s)
            continue
        assert engine.num_steps < max_steps, f"unfinished after {max_steps} steps: starvation"
        finished += engine.step()
    return finished


class ContentExecutor:
    """Computes nothing but moves contents as an executor with a model must, and checks them.

    Each step takes 1 s. Beams are replaced at random. `observe` is called with every batch after
    its changes were applied and checked.
    """

    def __init__(self, config: EngineConfig, *, seed: int = 0) -> None:
        self.scheduler: Scheduler | None = None
        self.observe: Callable[[Batch], None] = lambda batch: None
        self.histories: dict[Sequence, list[object]] = {}
        self._config = config
        self._random = np.random.default_rng(seed)
        self._device: dict[int, object] = {}
        self._host: dict[int, object] = {}
        self._tables: dict[Sequence, list[int]] = {}
        self._num_tokens = 0

    def execute(self, batch: Batch) -> StepResult:
        self._move(batch)
        self._follow_tables(batch)
        prompts = {prompt.group: prompt for prompt in batch.prompts}
        for group in self.groups:
            for sequence in group.running:
                prompt = prompts.get(group)
                if prompt is not None:
                    self._start(sequence, prompt.num_tokens)
                length = len(self.histories[sequence])
                first = length - 1 if prompt is None else prompt.num_cached
                for position in range(first, length):
                    slot = self.slot(sequence, position)
                    self._device[slot] = self.histories[sequence][position]
        self._check_contents()
        self.observe(batch)
        forks = [self._replace_beams(group) for group in batch.beam_groups.values()]
        for sequence in self._tables:
            self._num_tokens += 1
            self.histories[sequence].append(self._num_tokens)
        return StepResult(1.0, [fork for fork in forks if fork is not None], [])

    @property
    def groups(self) -> list[SequenceGroup]:
        assert self.scheduler is not None
        return self.scheduler.running

    def slot(self, sequence: Sequence, position: int) -> int:
        """Where a token's KV is: in its block, or behind the start of a contiguous cache."""
        if self._config.system is not System.ASTRA:
            return sequence.blocks[0] + position
        size = self._config.block_size
        return sequence.table[position // size] * size + position % size

    def _move(self, batch: Batch) -> None:
        """Apply swaps, then copies; all copies read before any of them writes."""
        size = self._config.block_size
        for swap in batch.swap_out:
            for i in range(size):
                token = self._device.get(swap.source_block * size + i)
                self._host[swap.target_block * size + i] = token
        for swap in batch.swap_in:
            for i in range(size):
                token = self._host.get(swap.source_block * size + i)
                self._device[swap.target_block * size + i] = token
        moved = {
            copy.target_slot + i: self._device.get(copy.source_slot + i)
            for copy in batch.copies
            for i in range(copy.num_tokens)
        }
        assert len(moved) == sum(copy.num_tokens for copy in batch.copies), "targets overlap"
        self._device |= moved

    def _follow_tables(self, batch: Batch) -> None:
        """Keep own block tables by the batch's changes alone."""
        for sequence in batch.left:
            del self._tables[sequence]
        for sequence in batch.forked:
            assert sequence in self._tables, "a sequence that does not run was forked"
            self._tables[sequence] = sequence.table
        for sequence in batch.joined:
            assert sequence not in self._tables, "a running sequence joined"
            self._tables[sequence] = sequence.table
        for sequence in batch.changed:
            last = sequence.num_blocks - 1
            self._tables[sequence][last:] = [sequence.blocks[-1]]
        expected = {s: s.table for group in self.groups for s in group.running}
        assert self._tables == expected, "block tables differ from what the changes say"

    def _start(self, sequence: Sequence, num_tokens: int) -> None:
        request = sequence.group.request
        if sequence not in self.histories:
            self.histories[sequence] = [
                ("prefix", i) if i < request.prefix_len else (request.request_id, i)
                for i in range(num_tokens)
            ]
        known = len(self.histories[sequence])
        assert known == num_tokens, f"{num_tokens} tokens recomputed of {known}"

    def _check_contents(self) -> None:
        for sequence in self._tables:
            history = self.histories[sequence]
            held = [self._device.get(self.slot(sequence, i)) for i in range(len(history))]
            assert held == history, f"sequence {sequence.index} reads {held}, not {history}"

    def _replace_beams(self, group: SequenceGroup) -> Fork | None:
        width = len(group.running)
        drawn = self._random.integers(width, size=width).tolist()
        parents = place_children(tuple(drawn)).parents
        if parents == tuple(range(width)):
            return None
        before = [self.histories[s].copy() for s in group.running]
        for sequence, parent in zip(group.running, parents, strict=True):
            self.histories[sequence] = before[parent].copy()
        return Fork(group, parents)


def make_content_engine(config: EngineConfig, *, seed: int = 0) -> tuple[Engine, ContentExecutor]:
    """An engine over real contents."""
    executor = ContentExecutor(config, seed=seed)
    engine = make_engine(config, executor)
    executor.scheduler = engine.scheduler
    return engine, executor
