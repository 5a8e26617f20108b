"""Executes the `ft` policy's batches with NVIDIA's library, which computes each batch as a whole.

The library knows no steps: the batch is computed when its prompts come, and the steps that follow
only hand out what is known already. All requests of a batch finish together under this policy, so
that nothing that is measured can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engines.core.batch import Batch, Prompt
from engines.core.executor import StepResult
from engines.core.request import Request
from engines.ft.library import BatchAnswer, BatchOrder

PADDING = 0


class LibraryExecutor:
    """`compute` is `Library.run`; `prompt_of` gives a request's token ids, prompt_len of them."""

    def __init__(
        self,
        compute: Callable[[BatchOrder], BatchAnswer],
        prompt_of: Callable[[Request], Sequence[int]],
        *,
        seed: int,
    ) -> None:
        self._compute = compute
        self._prompt_of = prompt_of
        self._seed = seed

    def execute(self, batch: Batch) -> StepResult:
        """See `Executor.execute`."""
        if not batch.prompts:
            return StepResult(0.0, [], [])
        order = self._order(batch.prompts)
        answer = self._compute(order)
        self._hand_out(batch.prompts, order, answer)
        return StepResult(answer.elapsed_s, [], [])

    def _order(self, prompts: Sequence[Prompt]) -> BatchOrder:
        """One row for each prompt, or for each of its samples; beams share a row."""
        sampling = prompts[0].group.request.sampling  # the policy batches like with like
        rows, lengths = [], []
        longest = max(prompt.group.request.prompt_len for prompt in prompts)
        for prompt in prompts:
            ids = [int(token) for token in self._prompt_of(prompt.group.request)]
            padded = ids + [PADDING] * (longest - len(ids))
            copies = 1 if sampling.beam else sampling.n
            rows += [padded] * copies
            lengths += [len(ids)] * copies
        greedy = sampling.temperature == 0
        return BatchOrder(
            start_ids=rows,
            start_lengths=lengths,
            output_len=max(prompt.group.request.output_len for prompt in prompts),
            beam_width=sampling.n if sampling.beam else 1,
            top_k=1 if greedy else 0,
            top_p=sampling.top_p,
            temperature=1.0 if greedy else sampling.temperature,
            random_seed=self._seed,
        )

    def _hand_out(self, prompts: Sequence[Prompt], order: BatchOrder, answer: BatchAnswer) -> None:
        """Give each sequence its tokens: the library puts them right after the true prompt."""
        outputs = [
            (beam, length)
            for row, length in zip(answer.output_ids, order.start_lengths, strict=True)
            for beam in row
        ]
        sequences = [s for prompt in prompts for s in prompt.group.running]
        for sequence, (tokens, length) in zip(sequences, outputs, strict=True):
            wanted = sequence.group.request.output_len
            sequence.output_token_ids = tokens[length : length + wanted]
