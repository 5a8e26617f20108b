"""Times bringing back a preempted sequence: swapping against recomputing (Figure 19a)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.devices.timing import sample_seconds
from engines.core.config import ModelSpec
from engines.kernels.swap import SwapSpace

WEIGHT_BYTES = 2 << 30  # distinct weights kept for timing a forward pass


@dataclass(frozen=True)
class SwapWork:
    """A sequence to be swapped: a model's caches in a type on a device, its blocks, its length.

    `staged`: gather blocks into large transfers; without, each block of each layer's keys or values
    moves by itself, as the original system does and the figure shows.
    """

    spec: ModelSpec
    dtype: torch.dtype
    device: str
    block_size: int
    num_tokens: int = 256
    staged: bool = True


@dataclass(frozen=True)
class SwapTiming:
    """What it takes to swap one sequence (Figure 19a), median seconds."""

    block_size: int
    swap_out_s: float
    swap_in_s: float
    swapped_bytes: int  # one way


def time_recompute(
    spec: ModelSpec, num_tokens: int, *, dtype: torch.dtype, device: str, samples: int = 7
) -> float:
    """Median seconds of recomputing a sequence's keys and values: a forward pass over it."""
    run = _forward_run(spec, num_tokens, dtype, device)
    return statistics.median(sample_seconds(run, device, samples=samples))


def time_swap(work: SwapWork, *, samples: int = 7) -> SwapTiming:
    """Time swapping one sequence out and in."""
    spec, blocks = work.spec, -(-work.num_tokens // work.block_size)
    size = (2 * blocks, spec.kv_heads, work.block_size, spec.head_size)
    caches = [
        torch.randn(size, dtype=work.dtype, device=work.device) for _ in range(2 * spec.num_layers)
    ]
    space = SwapSpace(caches, blocks, staged=work.staged)
    scattered = torch.randperm(2 * blocks)[:blocks]
    out_pairs = torch.stack([scattered, torch.arange(blocks)], dim=1)
    in_pairs = out_pairs.flip(1).contiguous()
    out_s, in_s = (
        statistics.median(sample_seconds(run, work.device, samples=samples))
        for run in (_swapping(space.swap_out, out_pairs), _swapping(space.swap_in, in_pairs))
    )
    swapped_bytes = space.pool.numel() * space.pool.element_size()
    return SwapTiming(work.block_size, out_s, in_s, swapped_bytes)


def _swapping(swap: Callable[[Tensor], None], pairs: Tensor) -> Callable[[], None]:
    return lambda: swap(pairs)


def layers_within(most_bytes: int, spec: ModelSpec, dtype: torch.dtype) -> tuple[int, int]:
    """How many of a model's layers `most_bytes` hold, at least one, and the bytes of one."""
    layer_bytes = sum(math.prod(shape) for shape in spec.layer_products) * dtype.itemsize
    return max(1, min(spec.num_layers, most_bytes // layer_bytes)), layer_bytes


def _forward_run(
    spec: ModelSpec, num_tokens: int, dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """Return a forward pass over one prompt: matrix products and attention of every layer.

    Layers share weights where they would exceed WEIGHT_BYTES; one layer alone is larger than any
    cache at the sizes where that happens. A gated feed-forward has a third matrix.
    """
    copies, _ = layers_within(WEIGHT_BYTES, spec, dtype)
    layers = [
        [torch.randn(shape, dtype=dtype, device=device) * 0.02 for shape in spec.layer_products]
        for _ in range(copies)
    ]
    tokens = torch.randn(num_tokens, spec.hidden_size, dtype=dtype, device=device)

    def run() -> None:
        state = tokens
        for i in range(spec.num_layers):
            state = _layer(spec, state, layers[i % copies])

    return run


def _layer(spec: ModelSpec, state: Tensor, weights: list[Tensor]) -> Tensor:
    hidden, kv = spec.hidden_size, spec.kv_heads * spec.head_size
    parts = torch.split(state @ weights[0].T, [hidden, kv, kv], dim=1)
    query, key, value = (
        part.view(len(state), -1, spec.head_size).transpose(0, 1)[None] for part in parts
    )
    grouped = spec.kv_heads != spec.num_heads
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    mixed = attended[0].transpose(0, 1).reshape(len(state), hidden) @ weights[1].T
    wide = torch.relu(mixed @ weights[2].T)[:, : spec.ffn_size]
    return wide @ weights[3].T
