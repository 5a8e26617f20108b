"""Attention of one step: decodes by the cache's kernel, prompts by the best that the device has.

Keys and values of all tokens are written before anything attends, layer by layer, so that a prompt
may read a prefix which another prompt of the same step computes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engines.execution.kv_cache import KVCache, RowView
from engines.execution.prompts import PromptBatch
from engines.kernels.interface import Kernels, NewTokens


class StepAttention:
    """The attention backend of one forward pass: `decodes` are its first tokens, then prompts."""

    def __init__(
        self,
        cache: KVCache,
        kernels: Kernels,
        slots: Tensor,
        *,
        decodes: RowView,
        prompts: PromptBatch | None,
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._decodes = decodes
        self._num_decodes = len(decodes.context_lens)
        self._prompts: FlatPrompts | PaddedPrompts | None = None
        if prompts is not None and cache.pads_prompts:
            self._prompts = PaddedPrompts(prompts)
        elif prompts is not None:
            self._prompts = FlatPrompts(prompts, cache, kernels)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        out = q.new_empty(q.shape)
        self._cache.write(layer, k, v, self._slots)
        count = self._num_decodes
        if count:
            self._cache.attend(layer, out[:count], q[:count], self._decodes)
        if self._prompts is not None:
            self._prompts.attend(layer, out[count:], q[count:], k[count:], v[count:])
        return out


class FlatPrompts:
    """Prompts one after another without padding; those with a cached prefix are the last."""

    def __init__(self, prompts: PromptBatch, cache: KVCache, kernels: Kernels) -> None:
        self._cache = cache
        self._kernels = kernels
        lengths = [span.num_new for span in prompts.spans]
        # The CPU's own kernel takes all prompts at once; CUDA has faster ones for whole prompts.
        on_cpu = prompts.slots.device.type == "cpu"
        first = 0 if on_cpu and kernels.compiled else prompts.num_uncached
        self._plain_lengths = lengths[:first]
        self._plain_tokens = sum(self._plain_lengths)
        self._rest = None
        if first < len(lengths):
            self._rest = RowView(
                prompts.tables[first:],
                prompts.context_lens[first:],
                prompts.padding[first:],
                max(span.num_tokens for span in prompts.spans[first:]),
            )
            starts = prompts.starts[first:] - self._plain_tokens
            self._new = NewTokens(starts, max(lengths[first:]))

    def attend(self, layer: int, out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Attend causally; keys and values are in the cache already."""
        plain = self._plain_tokens
        if plain:
            self._attend_plain(*(t[:plain] for t in (out, q, k, v)))
        if self._rest is not None:
            context = self._cache.context(layer, self._rest)
            scale = q.shape[-1] ** -0.5
            self._kernels.prefix_attention(out[plain:], q[plain:], context, self._new, scale)

    def _attend_plain(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Whole prompts: their keys and values are at hand and need no table."""
        parts = zip(*(t.split_with_sizes(self._plain_lengths) for t in (out, q, k, v)), strict=True)
        for one_out, *one in parts:
            query, key, value = (t.transpose(0, 1)[None] for t in one)
            result = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
            )
            one_out.copy_(result[0].transpose(0, 1))


class PaddedPrompts:
    """FasterTransformer's prompts: a rectangle [rows, length], padded on the left."""

    def __init__(self, prompts: PromptBatch) -> None:
        self._num_rows = len(prompts.spans)
        length = prompts.spans[0].num_tokens
        place = torch.arange(length, device=prompts.padding.device)
        causal = place[:, None] >= place
        real = place >= prompts.padding[:, None, None]
        # Padding attends to itself, which nobody reads and which keeps its softmax finite.
        self._mask = ((causal & real) | (place[:, None] == place))[:, None]

    def attend(self, layer: int, out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Attend causally to all that is no padding."""
        del layer
        query, key, value = (
            t.reshape(self._num_rows, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v)
        )
        result = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._mask, enable_gqa=q.shape[1] != k.shape[1]
        )
        out.copy_(result.transpose(1, 2).flatten(0, 1))
