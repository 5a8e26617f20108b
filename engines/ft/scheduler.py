"""Request-level batching: a batch runs until its longest output is done (paper, section 6.1)."""

from __future__ import annotations

from engines.core.batch import Batch
from engines.core.config import EngineConfig
from engines.core.request import SequenceGroup
from engines.core.scheduler import Scheduler
from engines.core.subclassing import mypyc_attr
from engines.ft.manager import PaddedManager

CONTEXT_MARGIN = 8  # of the original: longest input + longest output <= 2040 of 2048


@mypyc_attr(allow_interpreted_subclasses=True)
class FTScheduler(Scheduler):
    """Takes the earliest requests as one padded batch and nothing else until all are done."""

    shares_prompts = False

    def __init__(self, config: EngineConfig, kv: PaddedManager) -> None:
        super().__init__(config, kv)
        self.rows = kv
        self._last_batch_step = 0

    def schedule(self, step: int) -> Batch:
        """Continue the batch, or form the next one."""
        batch = self.batch
        batch.begin(step)
        batch.fix_decodes()
        if self.waiting and not self.running:
            self._start_batch(step)
        return batch

    def _start_batch(self, step: int) -> None:
        groups = self._select()
        prompt_len = max(g.request.prompt_len for g in groups)
        output_len = max(g.request.output_len for g in groups)
        self._last_batch_step = step + output_len - 1
        self.rows.form_batch(prompt_len + output_len, step)
        for group in groups:
            assert self.rows.can_admit(group, prompt_len), "a selected request does not fit"
            self.waiting.popleft()
            self._start(group, prompt_len)

    def _select(self) -> list[SequenceGroup]:
        """Earliest waiting requests that may share a padded batch; always at least one."""
        limit = self.config.max_model_len - CONTEXT_MARGIN
        selected: list[SequenceGroup] = []
        prompt_len = output_len = num_seqs = 0
        for group in self.waiting:
            request = group.request
            prompt_len = max(prompt_len, request.prompt_len)
            output_len = max(output_len, request.output_len)
            num_seqs += request.sampling.n
            row_len = prompt_len + output_len
            fits = row_len <= limit and num_seqs * row_len <= self.rows.num_slots
            fits = fits and num_seqs <= self.config.max_num_seqs
            alike = not selected or request.sampling == selected[0].request.sampling
            room = len(selected) < self.config.max_batch_size
            if selected and not (fits and alike and room):
                break
            selected.append(group)
        return selected

    def _batched_tokens(self, group: SequenceGroup) -> int:
        """None: a batch is limited in requests, not in tokens."""
        return 0

    def _last_step(self, group: SequenceGroup) -> int:
        """All of a batch finish together."""
        return self._last_batch_step
