"""Attention of one step: decodes by the cache's kernel, prompts by the best that the device has.

Keys and values of all tokens are written before anything attends, layer by layer, so that a prompt
may read a prefix which another prompt of the same step computes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from engines.execution import varlen
from engines.execution.kv_cache import KVCache, RowView
from engines.execution.prompts import PromptBatch
from engines.execution.varlen import Attend, Lengths
from engines.kernels.interface import Kernels, NewTokens

AttendPrompts = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attends causally in a layer with the prompts' new q, k, v, which are in the cache already."""


class StepAttention:
    """The attention backend of one forward pass: `decodes` are its first tokens, then prompts."""

    def __init__(
        self, cache: KVCache, slots: Tensor, decodes: RowView, prompts: AttendPrompts | None
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._decodes = decodes
        self._attend_prompts = prompts

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        self._cache.write(layer, k, v, self._slots)
        count = len(self._decodes.context_lens)
        if self._attend_prompts is not None and not count:
            return self._attend_prompts(layer, q, k, v)
        out = q.new_empty(q.shape)
        self._cache.attend(layer, out[:count], q[:count], self._decodes)
        if self._attend_prompts is not None:
            out[count:] = self._attend_prompts(layer, q[count:], k[count:], v[count:])
        return out


def prompt_attention(
    prompts: PromptBatch, cache: KVCache, kernels: Kernels, chosen: str | None
) -> AttendPrompts:
    """One call for all prompts: of `chosen` in `varlen.IMPLEMENTATIONS`, or else of our kernel.

    Our kernel reads the cache and takes no padding, for which there is a call for each prompt.
    """
    if chosen is not None:
        return _dense(prompts, cache, varlen.IMPLEMENTATIONS[chosen])
    if cache.pads_prompts:
        return _dense(prompts, cache, varlen.per_sequence)
    lengths = prompts.lengths
    rows = RowView(prompts.tables, prompts.context_lens, max(lengths.keys))
    new = NewTokens(lengths.query_starts, max(lengths.queries))

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(q.shape)
        context = cache.context(layer, rows)
        kernels.prefix_attention(out, q, context, new, q.shape[-1] ** -0.5)
        return out

    return attend


def _dense(
    prompts: PromptBatch, cache: KVCache, implementation: Callable[[Lengths], Attend]
) -> AttendPrompts:
    """Attention to keys that lie one after another: new ones do, others are gathered."""
    attend, slots = implementation(prompts.lengths), prompts.context_slots
    if slots is None:
        return lambda layer, q, k, v: attend(q, k, v)
    places = cache.locate(slots)
    return lambda layer, q, k, v: attend(q, *cache.gather(layer, places))
