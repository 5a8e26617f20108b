"""The prompts of a step as one run of tokens; FasterTransformer's hold padding on the left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engines.core.batch import Prompt
from engines.core.request import Request
from engines.execution.kv_cache import KVCache
from engines.execution.rows import Rows
from engines.execution.transfer import send_all
from engines.execution.varlen import Lengths

_PREFIX_STREAM = 1
_PROMPT_STREAM = 2


class PromptTokens:
    """A request's prompt: its own, or random tokens where a workload has lengths only.

    Random prompts depend on seed and request id alone, and registered prefixes on the seed, so that
    requests which share one hold the same tokens.
    """

    def __init__(self, *, vocab_size: int, seed: int) -> None:
        self._vocab_size = vocab_size
        self._seed = seed

    def of(self, request: Request) -> NDArray[np.int64]:
        """The prompt's token ids, int64 [prompt_len]."""
        if request.prompt_token_ids is not None:
            return np.array(request.prompt_token_ids, dtype=np.int64)
        prefix = self._draw((_PREFIX_STREAM,), request.prefix_len)
        rest = request.prompt_len - request.prefix_len
        return np.concatenate((prefix, self._draw((_PROMPT_STREAM, request.request_id), rest)))

    def _draw(self, stream: tuple[int, ...], count: int) -> NDArray[np.int64]:
        random = np.random.default_rng((self._seed, *stream))
        return random.integers(self._vocab_size, size=count, dtype=np.int64)


@dataclass(frozen=True)
class Span:
    """One computation of a prompt: `num_tokens` from the start (padding included) are held
    afterwards, of which `num_cached` were there before. Its last token's logits serve `rows`."""

    rows: tuple[int, ...]
    num_tokens: int
    num_cached: int

    @property
    def row(self) -> int:
        """The row in which it is computed; the others share its blocks."""
        return self.rows[0]

    @property
    def num_new(self) -> int:
        """Tokens to compute."""
        return self.num_tokens - self.num_cached


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of a step.

    `token_ids`, `positions` and `slots` are int64 [tokens] on the device, `last` [sequences] the
    index of a prompt's last token among them for each sequence that has it. `lengths` are the
    prompts', or of padded ones the lengths of padding and prompt in turn, so that nothing attends
    to padding but padding. `context_slots` are int64 [all tokens of the prompts], where they lie in
    the cache, if any were there before.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    last: Tensor
    lengths: Lengths
    tables: Tensor  # int32 [spans, table width]
    context_lens: Tensor  # int32 [spans]
    context_slots: Tensor | None


def build_prompts(
    prompts: Sequence[Prompt], rows: Rows, cache: KVCache, tokens: PromptTokens
) -> PromptBatch:
    """Flatten the prompts of a step, whose sequences have the last rows; one upload."""
    spans = list(_spans(prompts, rows))
    ends = np.cumsum([span.num_new for span in spans]) - 1
    last_of = {row: end for span, end in zip(spans, ends, strict=True) for row in span.rows}
    span_rows = [span.row for span in spans]
    padding = rows.start_offsets[span_rows].tolist()
    slots = [cache.prompt_slots(rows.tables[s.row], np.arange(s.num_tokens)) for s in spans]
    queries, keys = _lengths(spans, padding)
    cached = any(span.num_cached for span in spans)
    ids, positions, new_slots, last, *starts, lens, tables, context = send_all(
        (
            np.concatenate([_tokens_of(span, rows, tokens) for span in spans]),
            np.concatenate([_positions_of(*each) for each in zip(spans, padding, strict=True)]),
            np.concatenate([_new_slots(*each) for each in zip(spans, padding, slots, strict=True)]),
            np.array([last_of[row] for row in sorted(last_of)]),
            np.cumsum([0, *queries], dtype=np.int32),
            np.cumsum([0, *keys], dtype=np.int32),
            np.array([span.num_tokens for span in spans], dtype=np.int32),
            rows.tables[span_rows],
            np.concatenate(slots) if cached else np.empty(0, dtype=np.int64),
        ),
        rows.device.tables.device,
    )
    return PromptBatch(
        token_ids=ids,
        positions=positions,
        slots=new_slots,
        last=last,
        lengths=Lengths(queries, keys, *starts),
        tables=tables,
        context_lens=lens,
        context_slots=context if cached else None,
    )


def _spans(prompts: Sequence[Prompt], rows: Rows) -> Iterator[Span]:
    """Each computation of a prompt: once for a group, or once for each of its sequences."""
    for prompt in prompts:
        members = tuple(rows.row_of(sequence) for sequence in prompt.group.running)
        shares = [members] if prompt.copies == 1 else [(row,) for row in members]
        for share in shares:
            yield Span(share, prompt.num_tokens, prompt.num_cached)


def _tokens_of(span: Span, rows: Rows, tokens: PromptTokens) -> NDArray[np.int64]:
    """Padding, the prompt, and after a recomputation what was generated."""
    request = rows.sequences[span.row].group.request
    padding = np.zeros(rows.start_offsets[span.row], dtype=np.int64)
    generated = rows.outputs[span.row, : rows.num_outputs[span.row]]
    whole = np.concatenate((padding, tokens.of(request), generated))
    assert len(whole) == span.num_tokens, f"prompt of {len(whole)} tokens, not {span.num_tokens}"
    return whole[span.num_cached :]


def _lengths(spans: Sequence[Span], padding: Sequence[int]) -> tuple[list[int], list[int]]:
    """Queries and keys of each run that attends to itself alone: padding, then a prompt."""
    pairs = []
    for span, pad in zip(spans, padding, strict=True):
        pairs += [(pad, pad)] if pad else []
        pairs.append((span.num_new - pad, span.num_tokens - pad))
    queries, keys = zip(*pairs, strict=True)
    return list(queries), list(keys)


def _positions_of(span: Span, padding: int) -> NDArray[np.int64]:
    return np.maximum(np.arange(span.num_cached, span.num_tokens) - padding, 0)


def _new_slots(span: Span, padding: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Slots of the new tokens; padding is not kept."""
    kept = np.where(np.arange(span.num_tokens) < padding, -1, slots)
    return kept[span.num_cached :]
