"""Measures the terms of a device profile, each with the kernels and layers that serving uses.

A rate is what a model of the given shape gets out of the present device, so it holds for models of
about that size. Nothing here is fitted to an end-to-end result.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.devices.recovery import SwapWork, layers_within, time_swap
from bench.devices.timing import (
    AttentionWork,
    measure_copy_bandwidth,
    sample_seconds,
    time_attention,
)
from engines.core.config import ModelSpec
from engines.execution.probe import build_model, narrow_spec, time_decode_steps
from engines.kernels.interface import NewTokens, PagedContext
from engines.kernels.library import load_kernels
from engines.models.linear import Linear, Projection
from engines.models.packed import Packer

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
USUAL_BLOCK = 16
WEIGHT_BYTES = 1 << 30  # distinct weights of the linears: beyond any cache
RUNNING = (1, 64)  # sequences between which the host's time is taken as a line


@dataclass(frozen=True)
class Term:
    """A measured parameter of the profile, and with what it was measured in a few words."""

    name: str
    value: float
    how: str


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    `tokens` is of the matrix product and the prompt; `batch_size` and `context_len` are of paged
    decode attention; `samples` are taken in each of `rounds`; `steps` are decode steps.
    """

    tokens: int = 512
    batch_size: int = 16
    context_len: int = 512
    samples: int = 3
    rounds: int = 3
    steps: int = 20
    block_sizes: tuple[int, ...] = BLOCK_SIZES


@dataclass(frozen=True)
class Subject:
    """What is measured: a model's shape in a type, on a device."""

    spec: ModelSpec
    dtype: torch.dtype
    device: str


def measure_terms(subject: Subject, effort: Effort) -> Iterator[Term]:
    """Yield every measured term; the slowest part is the block sizes'."""
    yield from measure_linears(subject, effort)
    yield measure_prompt_attention(subject, effort)
    copy = measure_copy_bandwidth(subject.device)
    yield Term("copy_bandwidth", copy, "a copy beyond all caches, bytes read plus bytes written")
    yield from measure_swap(subject, effort)
    yield from measure_host(subject, effort)


def measure_linears(subject: Subject, effort: Effort) -> Iterator[Term]:
    """Weight bandwidth by the linears at one row, FLOP/s by the same at many rows."""
    linears, weight_bytes = _linears(subject)
    shape = f"{len(linears)} linears of {subject.spec.name}, {weight_bytes / 2**20:.0f} MiB"
    one_row_s = _linear_seconds(linears, 1, subject, effort)
    yield Term("weight_bandwidth", weight_bytes / one_row_s, f"{shape}, 1 row")
    many_s = _linear_seconds(linears, effort.tokens, subject, effort)
    flop = 2 * effort.tokens * weight_bytes / subject.dtype.itemsize
    yield Term("flops", flop / many_s, f"{shape}, {effort.tokens} rows")


def _linears(subject: Subject) -> tuple[list[tuple[Projection, int]], int]:
    """The linears of as many layers as WEIGHT_BYTES hold, with their inputs' width; and bytes."""
    spec, dtype = subject.spec, subject.dtype
    copies, layer_bytes = layers_within(WEIGHT_BYTES, spec, dtype)
    device = torch.device(subject.device)
    packer = Packer() if Packer.serves(dtype, device) else None
    made: list[tuple[Projection, int]] = []
    for shape in spec.layer_products * copies:
        weight = torch.randn(shape, dtype=dtype, device=device) * shape[1] ** -0.5
        packed = packer.pack(weight, None) if packer else None
        made.append((packed or Linear(weight, None), shape[1]))
    return made, copies * layer_bytes


def _linear_seconds(
    linears: list[tuple[Projection, int]], rows: int, subject: Subject, effort: Effort
) -> float:
    widths = {width for _, width in linears}
    inputs = {
        width: torch.randn(rows, width, dtype=subject.dtype, device=subject.device)
        for width in widths
    }

    def run() -> None:
        for linear, width in linears:
            linear(inputs[width])

    return _best_seconds(run, subject, effort)


def _best_seconds(run: Callable[[], None], subject: Subject, effort: Effort) -> float:
    """The best round's median: whatever else runs on the machine can only slow a round."""
    with torch.inference_mode():
        return min(
            statistics.median(sample_seconds(run, subject.device, samples=effort.samples))
            for _ in range(effort.rounds)
        )


def measure_prompt_attention(subject: Subject, effort: Effort) -> Term:
    """FLOP/s of causal attention over one prompt: 2 * hidden * len^2 (half of a full square)."""
    spec, length = subject.spec, effort.tokens
    own_kernel = subject.device == "cpu" and load_kernels("cpu").compiled
    run = _prefix_run(subject, length) if own_kernel else _fused_run(subject, length)
    seconds = _best_seconds(run, subject, effort)
    kernel = "prompt attention kernel" if own_kernel else "PyTorch's fused attention"
    flop = 2 * spec.num_heads * spec.head_size * length**2
    return Term("attention_flops", flop / seconds, f"{kernel}, a prompt of {length} tokens")


def _prefix_run(subject: Subject, length: int) -> Callable[[], None]:
    spec, dtype = subject.spec, subject.dtype
    blocks = -(-length // USUAL_BLOCK)
    size = (blocks, spec.kv_heads, USUAL_BLOCK, spec.head_size)
    keys, values = (torch.randn(size, dtype=dtype) for _ in range(2))
    tables = torch.arange(blocks, dtype=torch.int32)[None]
    context = PagedContext(keys, values, tables, torch.tensor([length], dtype=torch.int32), length)
    query = torch.randn(length, spec.num_heads, spec.head_size, dtype=dtype)
    out, new = torch.empty_like(query), NewTokens(torch.tensor([0, length]).int(), length)
    kernels, scale = load_kernels(subject.device), spec.head_size**-0.5
    return lambda: kernels.prefix_attention(out, query, context, new, scale)


def _fused_run(subject: Subject, length: int) -> Callable[[], None]:
    spec = subject.spec

    def draw(heads: int) -> Tensor:
        size = (1, heads, length, spec.head_size)
        return torch.randn(size, dtype=subject.dtype, device=subject.device)

    query, key, value = draw(spec.num_heads), draw(spec.kv_heads), draw(spec.kv_heads)
    grouped = spec.kv_heads != spec.num_heads

    def run() -> None:
        scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)

    return run


def measure_swap(subject: Subject, effort: Effort) -> Iterator[Term]:
    """Bus bandwidth and the cost of one more transfer, by the smallest and the largest blocks.

    A transfer is a block of one layer's keys or values, as the price of a step counts them; the
    executor may gather several into one.
    """
    small, large = effort.block_sizes[0], effort.block_sizes[-1]
    small_s, few = _swap_seconds(subject, effort, small), _transfers(subject, large)
    large_s, many = _swap_seconds(subject, effort, large), _transfers(subject, small)
    latency_s = max(0.0, (small_s - large_s) / (many - few)) if many > few else 0.0
    moved = large * subject.spec.kv_bytes_per_token
    seconds = max(large_s - few * latency_s, 0.5 * large_s)
    how = f"swapping {large} tokens out and in, blocks of"
    yield Term("pcie_bandwidth", moved / seconds, f"{how} {large}")
    yield Term("pcie_latency_s", latency_s, f"{how} {small} against {large}")


def _transfers(subject: Subject, block_size: int) -> int:
    return 2 * subject.spec.num_layers * -(-BLOCK_SIZES[-1] // block_size)


def _swap_seconds(subject: Subject, effort: Effort, block_size: int) -> float:
    """Seconds to move `BLOCK_SIZES[-1]` tokens one way, the mean of out and in."""
    work = SwapWork(subject.spec, subject.dtype, subject.device, block_size, BLOCK_SIZES[-1])
    timings = [time_swap(work, samples=effort.samples) for _ in range(effort.rounds)]
    return (min(t.swap_out_s for t in timings) + min(t.swap_in_s for t in timings)) / 2


def measure_host(subject: Subject, effort: Effort) -> Iterator[Term]:
    """Time of a decode step that is not arithmetic: a line through two batch sizes.

    The model has the layers and vocabulary of `spec` but next to no width, so that a step is
    scheduling, launches, sampling and bookkeeping.
    """
    narrow = narrow_spec(subject.spec)
    kernels = load_kernels(subject.device)
    model = build_model(narrow, dtype=subject.dtype, device=subject.device)
    few, many = (
        time_decode_steps(model, kernels, num_seqs=n, context_len=8, steps=effort.steps).median_s
        for n in RUNNING
    )
    sequence_s = max(0.0, (many - few) / (RUNNING[1] - RUNNING[0]))
    how = f"decode steps of a model of {narrow.num_layers} layers with next to no width"
    yield Term("step_overhead_s", max(0.0, few - RUNNING[0] * sequence_s), f"{how}, 1 sequence")
    yield Term("sequence_overhead_s", sequence_s, f"{how}, {RUNNING[0]} to {RUNNING[1]} sequences")


def measure_paged_attention(subject: Subject, effort: Effort) -> tuple[Term, dict[int, float]]:
    """Bandwidth of paged decode attention, and each block size's relative to that of 16.

    Rounds over the block sizes are interleaved and the best counts, so that a slow spell of the
    machine does not look like a block size's.
    """
    spec = subject.spec
    sizes = sorted({USUAL_BLOCK, *effort.block_sizes})
    works = {
        size: AttentionWork(
            effort.batch_size, effort.context_len, spec.num_heads, spec.head_size, subject.dtype,
            subject.device, size, spec.kv_heads,
        )
        for size in sizes
    }  # fmt: skip
    best = dict.fromkeys(sizes, float("inf"))
    for _ in range(effort.rounds):
        for size, work in works.items():
            timing = time_attention("paged", work, copy_bandwidth=1.0, samples=effort.samples)
            best[size] = min(best[size], timing.latency_s)
    usual = best[USUAL_BLOCK]
    how = (
        f"paged decode attention, {effort.batch_size} sequences of {effort.context_len} tokens, "
        f"block size {USUAL_BLOCK}"
    )
    bandwidth = Term("kv_bandwidth", works[USUAL_BLOCK].bytes_moved / usual, how)
    return bandwidth, {size: usual / best[size] for size in effort.block_sizes}
