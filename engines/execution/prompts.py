"""The prompts of a step as one run of tokens without padding (or, for FT, one padded rectangle)."""

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
from engines.execution.transfer import send

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

    @property
    def places(self) -> NDArray[np.int64]:
        """Places of the new tokens in the context."""
        return np.arange(self.num_cached, self.num_tokens)


@dataclass(frozen=True)
class PromptBatch:
    """The prompts of a step, those without a cached prefix first.

    `token_ids`, `positions` and `slots` are int64 [tokens] on the device, `last` [spans] the index
    of each span's last token among them. `logits_of[i]` says which span holds the logits of the
    i-th sequence that joined with a prompt.
    """

    spans: tuple[Span, ...]
    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    last: Tensor
    logits_of: NDArray[np.int64]
    starts: Tensor  # int32 [spans + 1], where each span's tokens begin
    context_lens: Tensor  # int32 [spans]
    tables: Tensor  # int32 [spans, table width]
    padding: Tensor  # int32 [spans], slots of padding on the left

    @property
    def num_uncached(self) -> int:
        """Spans of which nothing was cached; they come first."""
        return sum(span.num_cached == 0 for span in self.spans)


def build_prompts(
    prompts: Sequence[Prompt], rows: Rows, cache: KVCache, tokens: PromptTokens
) -> PromptBatch:
    """Flatten the prompts of a step, whose sequences have the last rows."""
    spans = sorted(_spans(prompts, rows), key=lambda span: span.num_cached > 0)
    first = min(row for span in spans for row in span.rows)
    logits_of = np.empty(len(rows) - first, dtype=np.int64)
    for number, span in enumerate(spans):
        logits_of[np.array(span.rows) - first] = number
    device = rows.device.tables.device

    def to_device(*parts: NDArray[np.generic]) -> Tensor:
        return send(np.concatenate(parts), device)

    starts = np.cumsum([0, *(span.num_new for span in spans)])
    span_rows = np.array([span.row for span in spans])
    padding = rows.start_offsets[span_rows]
    return PromptBatch(
        spans=tuple(spans),
        token_ids=to_device(*(_tokens_of(span, rows, tokens) for span in spans)),
        positions=to_device(
            *(np.maximum(s.places - pad, 0) for s, pad in zip(spans, padding, strict=True))
        ),
        slots=to_device(*(_slots_of(span, rows, cache) for span in spans)),
        last=to_device(starts[1:] - 1),
        logits_of=logits_of,
        starts=to_device(starts.astype(np.int32)),
        context_lens=to_device(np.array([s.num_tokens for s in spans], dtype=np.int32)),
        tables=to_device(rows.tables[span_rows]),
        padding=to_device(padding),
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


def _slots_of(span: Span, rows: Rows, cache: KVCache) -> NDArray[np.int64]:
    slots = cache.prompt_slots(rows.tables[span.row], span.places)
    return np.where(span.places < rows.start_offsets[span.row], -1, slots)
