"""What is timed on a device: the kernels and layers that serving uses, in a model's shapes.

Each function makes its tensors and returns what is to be timed (`bench.devices.timing.Run`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.devices.timing import Run
from engines.core.models import ModelSpec
from engines.execution import varlen
from engines.execution.varlen import Attend, Lengths
from engines.kernels.interface import ContiguousContext, NewTokens, PagedContext
from engines.kernels.library import load_kernels
from engines.kernels.swap import SwapSpace
from engines.models.linear import Linear, Projection
from engines.models.packed import Packer

WEIGHT_BYTES = 1 << 30  # distinct weights of the linears: beyond any cache
_PROMPT_BLOCK = 16


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a model's shapes in a type, on "cpu" or "cuda"."""

    spec: ModelSpec
    device: str
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch's."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def draw(self, *size: int) -> Tensor:
        """Normal numbers of a size in the type, on the device."""
        return torch.randn(size, dtype=self.torch_dtype, device=self.device)

    def draw_cache(self, num_blocks: int, block_size: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer."""
        size = (num_blocks, self.spec.kv_heads, block_size, self.spec.head_size)
        return self.draw(*size), self.draw(*size)

    def draw_queries(self, num_tokens: int) -> Tensor:
        """Queries of one layer."""
        return self.draw(num_tokens, self.spec.num_heads, self.spec.head_size)


def attention_bytes(subject: Subject, batch_size: int, context_len: int) -> int:
    """Bytes that decode attention moves: keys, values and queries read, outputs written."""
    spec = subject.spec
    cached = 2 * batch_size * context_len * spec.kv_heads * spec.head_size
    vectors = 2 * batch_size * spec.num_heads * spec.head_size
    return (cached + vectors) * int(subject.torch_dtype.itemsize)


def paged_attention(subject: Subject, batch_size: int, context_len: int, block_size: int) -> Run:
    """Decode attention of sequences of equal context, over scattered blocks (Figure 18a)."""
    blocks = -(-context_len // block_size)
    keys, values = subject.draw_cache(batch_size * blocks, block_size)
    tables = torch.randperm(len(keys), device=subject.device).int().view(batch_size, blocks)
    lengths = torch.full((batch_size,), context_len, dtype=torch.int32, device=subject.device)
    context = PagedContext(keys, values, tables, lengths, context_len)
    query = subject.draw_queries(batch_size)
    out, scale, kernels = torch.empty_like(query), _scale(subject), load_kernels(subject.device)
    return lambda: kernels.paged_attention(out, query, context, scale)


def contiguous_attention(subject: Subject, batch_size: int, context_len: int) -> Run:
    """The same over a contiguous cache, FasterTransformer's (Figure 18a)."""
    keys, values = subject.draw_cache(batch_size, context_len)
    lengths = torch.full((batch_size,), context_len, dtype=torch.int32, device=subject.device)
    context = ContiguousContext(keys, values, lengths, context_len)
    query = subject.draw_queries(batch_size)
    out, scale, kernels = torch.empty_like(query), _scale(subject), load_kernels(subject.device)
    return lambda: kernels.contiguous_attention(out, query, context, scale)


def prompt_attention(subject: Subject, length: int) -> Run:
    """Causal attention over one prompt, as serving computes it: our kernel on a CPU."""
    if subject.device != "cpu":
        heads = _heads(subject.spec, subject.draw(length, sum(_qkv_widths(subject.spec))))
        attend = _dense_attention(subject, length)
        return lambda: attend(*heads)
    blocks = -(-length // _PROMPT_BLOCK)
    tables = torch.arange(blocks, dtype=torch.int32)[None]
    lengths = torch.tensor([length], dtype=torch.int32)
    context = PagedContext(*subject.draw_cache(blocks, _PROMPT_BLOCK), tables, lengths, length)
    query, new = subject.draw_queries(length), NewTokens(torch.tensor([0, length]).int(), length)
    out, scale, kernels = torch.empty_like(query), _scale(subject), load_kernels("cpu")
    return lambda: kernels.prefix_attention(out, query, context, new, scale)


def _scale(subject: Subject) -> float:
    return float(subject.spec.head_size**-0.5)


def _qkv_widths(spec: ModelSpec) -> list[int]:
    return [spec.hidden_size, spec.kv_heads * spec.head_size, spec.kv_heads * spec.head_size]


def _heads(spec: ModelSpec, state: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values [num_tokens, heads, head_size] of [num_tokens, all of them]."""
    parts = torch.split(state, _qkv_widths(spec), dim=1)
    return tuple(p.view(len(state), -1, spec.head_size) for p in parts)


def _dense_attention(subject: Subject, length: int) -> Attend:
    """Causal attention over one prompt: on a GPU as serving computes it, else PyTorch's."""
    device = torch.device(subject.device)
    chosen = varlen.choose(device, subject.torch_dtype, subject.spec.head_size)
    starts = torch.tensor([0, length], dtype=torch.int32, device=device)
    implementation = varlen.IMPLEMENTATIONS[chosen] if chosen else varlen.per_sequence
    return implementation(Lengths([length], [length], starts, starts))


@dataclass(frozen=True)
class Linears:
    """The matrix products of as many layers as WEIGHT_BYTES hold, at least one."""

    layers: tuple[tuple[Projection, ...], ...]
    weight_bytes: int

    @classmethod
    def of(cls, subject: Subject) -> Linears:
        """Draw the weights, packed as serving packs them."""
        spec, dtype = subject.spec, subject.torch_dtype
        layer_bytes = dtype.itemsize * sum(math.prod(shape) for shape in spec.layer_products)
        count = max(1, min(spec.num_layers, WEIGHT_BYTES // layer_bytes))
        packer = Packer() if Packer.serves(dtype, torch.device(subject.device)) else None

        def make(shape: tuple[int, int]) -> Projection:
            weight = subject.draw(*shape) * shape[1] ** -0.5
            packed = packer.pack(weight, None) if packer else None
            return packed or Linear(weight, None)

        layers = tuple(tuple(map(make, spec.layer_products)) for _ in range(count))
        return cls(layers, count * layer_bytes)


def matrix_products(subject: Subject, linears: Linears, num_rows: int) -> Run:
    """All linears once, over some rows."""
    widths = [inputs for _, inputs in subject.spec.layer_products]
    drawn = {width: subject.draw(num_rows, width) for width in set(widths)}
    inputs = [drawn[width] for width in widths]

    def run() -> None:
        for layer in linears.layers:
            for linear, rows in zip(layer, inputs, strict=True):
                linear(rows)

    return run


def forward_pass(subject: Subject, num_tokens: int) -> Run:
    """Recomputing a sequence's keys and values: matrix products and attention of every layer.

    Layers share weights where they would exceed WEIGHT_BYTES; one layer alone is larger than any
    cache at the sizes where that happens.
    """
    spec, linears = subject.spec, Linears.of(subject)
    tokens = subject.draw(num_tokens, spec.hidden_size)
    attend = _dense_attention(subject, num_tokens)

    def run() -> None:
        state = tokens
        for i in range(spec.num_layers):
            qkv, mix, up, down = linears.layers[i % len(linears.layers)]
            attended = attend(*_heads(spec, qkv(state)))
            wide = up(mix(attended.reshape(num_tokens, spec.hidden_size)))
            state = down(torch.relu(wide)[:, : spec.ffn_size])

    return run


def swap(
    subject: Subject, num_tokens: int, block_size: int, *, into: str, staged: bool = True
) -> Run:
    """Move one sequence's blocks of all layers `into` the "host" or the "device" (Figure 19a).

    `staged`: gather blocks into large transfers; without, each block of each layer's keys or values
    moves by itself, as the original system does and the figure shows.
    """
    blocks = -(-num_tokens // block_size)
    caches = [
        cache
        for _ in range(subject.spec.num_layers)
        for cache in subject.draw_cache(2 * blocks, block_size)
    ]
    space = SwapSpace(load_kernels(subject.device), caches, blocks, staged=staged)
    pairs = torch.stack([torch.randperm(2 * blocks)[:blocks], torch.arange(blocks)], dim=1)
    if into == "host":
        return lambda: space.swap_out(pairs)
    back = pairs.flip(1).contiguous()
    return lambda: space.swap_in(back)


def swapped_bytes(subject: Subject, num_tokens: int, block_size: int) -> int:
    """Bytes that a swap moves one way: whole blocks."""
    spec, slots = subject.spec, -(-num_tokens // block_size) * block_size
    vectors = 2 * spec.num_layers * slots
    return vectors * spec.kv_heads * spec.head_size * int(subject.torch_dtype.itemsize)
