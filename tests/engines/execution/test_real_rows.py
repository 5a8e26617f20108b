"""The rows against a record of everything that happened, kept the slow way."""

from __future__ import annotations

import random

import numpy as np
import torch
from real_serving import MAX_LEN, request

from engines.core.batch import Batch
from engines.core.clock import VirtualClock
from engines.core.config import EngineConfig, Preemption, System
from engines.core.engine import Engine
from engines.core.executor import Fork, StepResult
from engines.core.sampling import SamplingParams
from engines.core.stats import StepRecorder
from engines.execution.kv_cache import CacheShape, create_cache
from engines.execution.rows import Rows
from engines.kernels.reference import ReferenceKernels
from engines.systems import create_scheduler


class Recorder:
    """An executor that chooses random tokens and compares the rows with the sequences."""

    def __init__(self, config: EngineConfig) -> None:
        shape = CacheShape(1, 1, 4, torch.float32, torch.device("cpu"))
        cache = create_cache(shape, config, ReferenceKernels())
        self.rows = Rows(cache, capacity=60, max_len=MAX_LEN, device=torch.device("cpu"))
        self.chosen: dict[object, list[int]] = {}
        self.random = random.Random(5)
        self.num_checked = 0

    def execute(self, batch: Batch) -> StepResult:
        rows = self.rows
        rows.apply(batch)
        rows.advance(batch.num_decodes)
        running = list(rows.sequences)
        assert len(set(running)) == len(running) == batch.num_seqs
        prompted = {s for p in batch.prompts for s in p.group.running}
        assert set(running[batch.num_decodes :]) == prompted
        for row, sequence in enumerate(running):
            assert rows.row_of(sequence) == row
            assert rows.context_lens[row] == sequence.group.context_len(batch.step)
            assert rows.start_offsets[row] == 0
            assert rows.tables[row, : sequence.num_blocks].tolist() == sequence.table
            assert rows.output_of(row) == self.chosen.get(sequence, [])
            if row < batch.num_decodes:
                assert int(rows.device.last_tokens[row]) == self.chosen[sequence][-1]
            self.num_checked += 1
        tokens = np.array([self.random.randrange(1000) for _ in running])
        rows.device.last_tokens[: len(running)] = torch.from_numpy(tokens)
        assert rows.append(tokens).tolist() == list(range(len(running)))
        for sequence, token in zip(running, tokens.tolist(), strict=True):
            self.chosen.setdefault(sequence, []).append(token)
        return StepResult(1.0, [self.fork(g) for g in batch.beam_groups.values()], [])

    def fork(self, group) -> Fork:
        """Let the second beam sometimes continue the first, as the executor does it."""
        members = group.running
        parents = list(range(len(members)))
        if len(self.chosen[members[0]]) > 1 and self.random.random() < 0.4:
            parents[1] = 0
        histories = [self.chosen[members[p]][:-1] for p in parents]
        tokens = [self.random.randrange(1000) for _ in members]
        for member, history, token in zip(members, histories, tokens, strict=True):
            self.chosen[member] = [*history, token]
        self.rows.continue_beams([self.rows.row_of(m) for m in members], parents, tokens)
        return Fork(group, tuple(parents))


def test_rows_follow_every_change() -> None:
    config = EngineConfig(
        system=System.ASTRA, num_slots=160, swap_slots=800, block_size=4, max_model_len=MAX_LEN,
        preemption=Preemption.AUTO,
    )  # fmt: skip
    recorder = Recorder(config)
    engine = Engine(
        create_scheduler(config), recorder, VirtualClock(), recorder=StepRecorder(0.0, 0.0)
    )
    draw = random.Random(1)
    kinds = [SamplingParams(), SamplingParams(n=3, temperature=1.0), SamplingParams(n=2, beam=True)]
    waiting = [
        request(i, [1] * draw.randint(1, 14), draw.randint(1, 20), sampling=draw.choice(kinds))
        for i in range(60)
    ]
    finished = []
    while waiting or engine.has_work:
        for _ in range(min(len(waiting), draw.randint(0, 2))):
            engine.add_request(waiting.pop())
        if engine.has_work:
            finished += engine.step()
    assert len(finished) == 60
    assert engine.scheduler.num_preemptions > 5
    assert recorder.num_checked > 1000
    for group in finished:
        for sequence in group.sequences:
            assert len(recorder.chosen[sequence]) == group.request.output_len
