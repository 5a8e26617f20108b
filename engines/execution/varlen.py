"""Causal attention over prompts of different lengths, all in one call.

Two libraries offer such a call for FP16 and BF16 on a GPU: PyTorch (FlashAttention-2) and xformers
(`memory_efficient_attention` with a block-diagonal causal mask, as in the original system).
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engines.core.errors import UserError, unknown_name

logger = logging.getLogger(__name__)

SETTING = "ASTRA_PROMPT_ATTENTION"  # the environment variable that names one of IMPLEMENTATIONS
LARGEST_HEAD, HEAD_MULTIPLE = 256, 8  # FlashAttention-2's
TOLERANCE = 2e-2  # of the trial's results, which are about 1

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attends with q [query tokens, heads, d] to k and v [key tokens, kv_heads, d]; scale d ** -0.5."""


@dataclass(frozen=True)
class Lengths:
    """Sequences that lie one after another; the last `queries[i]` of `keys[i]` tokens attend.

    `query_starts` and `key_starts` are int32 [sequences + 1] on the device: where each one begins.
    """

    queries: list[int]
    keys: list[int]
    query_starts: Tensor
    key_starts: Tensor


def flash(lengths: Lengths) -> Attend:
    """PyTorch's FlashAttention-2.

    The operator that `torch.nn.attention.varlen.varlen_attn` calls, which does not take grouped
    heads in torch 2.11.
    """
    longest = max(lengths.queries), max(lengths.keys)
    starts = lengths.query_starts, lengths.key_starts

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dropout, causal, debug = 0.0, True, False
        out: Tensor = torch.ops.aten._flash_attention_forward(
            q, k, v, *starts, *longest, dropout, causal, debug
        )[0]
        return out

    return attend


def memory_efficient(lengths: Lengths) -> Attend:
    """xformers' attention: by the fastest of its operators that the device has."""
    from xformers.ops import fmha

    device = lengths.query_starts.device
    mask = fmha.attn_bias.BlockDiagonalCausalFromBottomRightMask.from_seqlens(
        lengths.queries, lengths.keys, device=device
    )

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # [batch, tokens, kv_heads, heads of each, d], the way in which it takes grouped heads
        grouped = q.view(1, len(q), k.shape[1], -1, q.shape[2])
        shape = (1, len(k), *grouped.shape[2:])
        k, v = k[None, :, :, None].expand(shape), v[None, :, :, None].expand(shape)
        out: Tensor = fmha.memory_efficient_attention_forward(grouped, k, v, mask)
        return out.view(q.shape)

    return attend


def per_sequence(lengths: Lengths) -> Attend:
    """PyTorch's `scaled_dot_product_attention`, a call for each sequence: on any device."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries = q.split_with_sizes(lengths.queries)
        keys, values = k.split_with_sizes(lengths.keys), v.split_with_sizes(lengths.keys)
        return torch.cat([_attend_one(*each) for each in zip(queries, keys, values, strict=True)])

    return attend


def _attend_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    whole = len(q) == len(k)  # otherwise PyTorch's causal mask would begin at the first key
    mask = None
    if not whole:
        mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
    query, key, value = (t.transpose(0, 1)[None] for t in (q, k, v))
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=whole, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0].transpose(0, 1)


IMPLEMENTATIONS: dict[str, Callable[[Lengths], Attend]] = {
    "flash": flash,
    "xformers": memory_efficient,
}


def choose(device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """The implementation for a model: the one that the environment names, if it works here.

    None where none does: on CPUs, for FP32, and for heads that FlashAttention does not take. Raises
    UserError for an unknown name.
    """
    wanted = os.environ.get(SETTING, "flash")
    if wanted not in IMPLEMENTATIONS:
        raise UserError(f"{SETTING}: {unknown_name('prompt attention', wanted, IMPLEMENTATIONS)}")
    fits = head_size % HEAD_MULTIPLE == 0 and head_size <= LARGEST_HEAD
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or not fits:
        return None
    return _first_working(wanted, device)


@functools.cache
def _first_working(wanted: str, device: torch.device) -> str | None:
    """The named implementation or else the other; a notice says why one does not work."""
    for name in sorted(IMPLEMENTATIONS, key=lambda name: name != wanted):
        try:
            _try(IMPLEMENTATIONS[name], device)
        except Exception as error:  # of packages that do not fit each other, any kind
            reason = str(error).partition("\n")[0]
            logger.warning("%s does not compute prompts' attention here: %s", name, reason)
        else:
            return name
    return None


def _try(implementation: Callable[[Lengths], Attend], device: torch.device) -> None:
    """Raise where two small sequences, one with a prefix, are not computed as PyTorch does it."""
    starts = (torch.tensor(s, dtype=torch.int32, device=device) for s in ([0, 3, 5], [0, 3, 8]))
    lengths = Lengths([3, 2], [3, 5], *starts)
    q, k, v = (
        torch.linspace(-2, 2, tokens * heads * 64, device=device, dtype=torch.float16).sin()
        .view(tokens, heads, 64)
        for tokens, heads in ((5, 4), (8, 2), (8, 2))
    )  # fmt: skip
    got, expected = implementation(lengths)(q, k, v), per_sequence(lengths)(q, k, v)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
