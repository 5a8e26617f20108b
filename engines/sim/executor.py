"""The simulation's executor: it prices a step instead of computing it."""

from __future__ import annotations

from functools import lru_cache

from engines.core.batch import Batch
from engines.core.executor import Fork, StepResult
from engines.core.request import Sequence
from engines.core.subclassing import mypyc_attr
from engines.sim.beams import BeamProcess
from engines.sim.cost import StepPrice, Work


def work_of(batch: Batch, block_size: int) -> Work:
    """A batch's totals and changes as work."""
    prompts = prompt_tokens = prompt_squares = 0
    for prompt in batch.prompts:
        prompts += len(prompt.group.running)
        total, cached = prompt.num_tokens, prompt.num_cached
        prompt_tokens += prompt.copies * (total - cached)
        prompt_squares += prompt.copies * (total * total - cached * cached)
    copied_tokens = copied_blocks = 0
    for copy in batch.copies:
        copied_tokens += copy.num_tokens
        copied_blocks += -(-copy.num_tokens // block_size)
    return Work(
        prompts=prompts,
        prompt_tokens=prompt_tokens,
        decodes=batch.num_decodes,
        groups=batch.num_groups,
        beam_groups=len(batch.beam_groups),
        context_tokens=batch.decode_context_tokens,
        shared_tokens=batch.shared_blocks * block_size,
        prompt_squares=prompt_squares,
        copied_tokens=copied_tokens,
        copied_blocks=copied_blocks,
        blocks_in=len(batch.swap_in),
        blocks_out=len(batch.swap_out),
    )


@mypyc_attr(allow_interpreted_subclasses=True)
class SimExecutor:
    """Prices batches with a device profile; beams survive as in recorded searches."""

    def __init__(self, cost: StepPrice, beams: BeamProcess, *, block_size: int) -> None:
        self.cost = cost
        self._beams = beams
        self._block_size = block_size
        self._none_stopped: list[Sequence] = []

    @property
    def outside(self) -> int:
        """Steps priced beyond what was measured."""
        return self.cost.outside

    def execute(self, batch: Batch) -> StepResult:
        """Price the step, and draw which beams survive."""
        if batch.prompts or batch.copies or batch.swap_in or batch.swap_out:
            elapsed_s = self.cost.seconds(work_of(batch, self._block_size))
        else:
            elapsed_s = self.cost.decode_seconds(
                batch.num_decodes,
                batch.decode_context_tokens,
                groups=batch.num_groups,
                beam_groups=len(batch.beam_groups),
                shared_tokens=batch.shared_blocks * self._block_size,
            )
        forks = self._beams.step(batch)
        if forks:
            elapsed_s += self._fork_seconds(forks, batch.step)
        return StepResult(elapsed_s, forks, self._none_stopped)

    def _fork_seconds(self, forks: list[Fork], step: int) -> float:
        context_tokens = output_tokens = 0
        for group, parents in forks:
            length = group.context_len(step)
            replaced = num_replaced(parents)
            context_tokens += replaced * length
            output_tokens += replaced * (length - group.request.prompt_len)
        return self.cost.fork_seconds(context_tokens, output_tokens)


@lru_cache(maxsize=1 << 16)  # the same few patterns recur
def num_replaced(parents: tuple[int, ...]) -> int:
    """How many places continue another place's beam."""
    return sum(parent != place for place, parent in enumerate(parents))
