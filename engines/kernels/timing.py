"""Times the kernels with a cold cache, against the device's own measured copy bandwidth.

Figure 18a compares paged with contiguous attention; Figure 19a swapping a sequence's blocks out
and in with recomputing them. Times are of the device (CUDA events) or wall-clock on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.core.config import ModelSpec
from engines.core.errors import UserError
from engines.kernels import ops
from engines.kernels.swap import SwapSpace

FLUSH_BYTES = 512 << 20  # more than any last-level cache to be expected
COPY_BYTES = 1 << 30  # moved by one copy: half read, half written
WEIGHT_BYTES = 2 << 30  # distinct weights kept for timing a forward pass


@dataclass(frozen=True)
class KernelTiming:
    """What one kernel took and moved; `seconds` holds every sample."""

    name: str
    device: str
    seconds: tuple[float, ...]
    bytes_moved: int
    copy_bandwidth: float  # B/s measured on the same device, bytes read plus bytes written

    @property
    def latency_s(self) -> float:
        """The median sample."""
        return statistics.median(self.seconds)

    @property
    def bandwidth(self) -> float:
        """Bytes moved per second, by the median sample."""
        return self.bytes_moved / self.latency_s

    @property
    def share_of_copy(self) -> float:
        """Bandwidth over the device's copy bandwidth."""
        return self.bandwidth / self.copy_bandwidth


@dataclass(frozen=True)
class AttentionWork:
    """A batch of decoding sequences of equal context (Figure 18a: OPT-13B's heads)."""

    batch_size: int
    context_len: int
    num_heads: int
    head_size: int
    dtype: torch.dtype
    device: str
    block_size: int = 16
    num_kv_heads: int | None = None  # None: as many as num_heads

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def bytes_moved(self) -> int:
        """Keys and values read once, queries read and outputs written."""
        cached = 2 * self.batch_size * self.context_len * self.kv_heads * self.head_size
        vectors = 2 * self.batch_size * self.num_heads * self.head_size
        return (cached + vectors) * self.dtype.itemsize


def device_name(device: str) -> str:
    """Return the device's own name, for labels."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def sample_seconds(run: Callable[[], object], device: str, *, samples: int = 20) -> list[float]:
    """Time `run` with caches flushed before each sample, after two runs that do not count."""
    flush = torch.empty(FLUSH_BYTES // 4, dtype=torch.float32, device=device)
    seconds = []
    for i in range(samples + 2):
        flush.fill_(float(i))
        elapsed = _seconds_on_gpu(run) if device == "cuda" else _seconds_on_cpu(run)
        if i >= 2:
            seconds.append(elapsed)
    return seconds


def _seconds_on_cpu(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _seconds_on_gpu(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # The flush is still running while these are queued, so launch times do not count.
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def measure_copy_bandwidth(device: str) -> float:
    """Return the bandwidth of a large copy on the device, in bytes read plus written per second."""
    source = torch.ones(COPY_BYTES // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return COPY_BYTES / statistics.median(
        sample_seconds(lambda: target.copy_(source), device, samples=7)
    )


def time_attention(
    kind: str, work: AttentionWork, *, copy_bandwidth: float, samples: int = 20
) -> KernelTiming:
    """Time paged or contiguous decode attention (`kind`); Figure 18a.

    copy_bandwidth: from `measure_copy_bandwidth`.
    """
    runs = {"paged": _paged_run, "contiguous": _contiguous_run}
    if kind not in runs:
        raise UserError(f"kind of attention must be paged or contiguous, got '{kind}'")
    seconds = sample_seconds(runs[kind](work), work.device, samples=samples)
    name = f"{kind} attention"
    return KernelTiming(name, work.device, tuple(seconds), work.bytes_moved, copy_bandwidth)


def _caches(work: AttentionWork, num_blocks: int, block_size: int) -> tuple[Tensor, Tensor]:
    size = (num_blocks, work.kv_heads, block_size, work.head_size)
    keys, values = (torch.randn(size, dtype=work.dtype, device=work.device) for _ in range(2))
    return keys, values


def _queries(work: AttentionWork) -> tuple[Tensor, Tensor, Tensor]:
    size = (work.batch_size, work.num_heads, work.head_size)
    query = torch.randn(size, dtype=work.dtype, device=work.device)
    lengths = torch.full((work.batch_size,), work.context_len, dtype=torch.int32)
    return torch.empty_like(query), query, lengths.to(work.device)


def _paged_run(work: AttentionWork) -> Callable[[], None]:
    blocks = -(-work.context_len // work.block_size)
    keys, values = _caches(work, work.batch_size * blocks, work.block_size)
    tables = torch.randperm(len(keys), device=work.device).int().view(work.batch_size, blocks)
    out, query, lengths = _queries(work)
    return lambda: ops.paged_attention(
        *(out, query, keys, values),
        block_tables=tables,
        context_lens=lengths,
        scale=work.head_size**-0.5,
        max_context_len=work.context_len,
    )


def _contiguous_run(work: AttentionWork) -> Callable[[], None]:
    keys, values = _caches(work, work.batch_size, work.context_len)
    out, query, lengths = _queries(work)
    return lambda: ops.contiguous_attention(
        *(out, query, keys, values),
        context_lens=lengths,
        scale=work.head_size**-0.5,
        max_context_len=work.context_len,
    )


@dataclass(frozen=True)
class RecoveryTiming:
    """What it takes to bring back one preempted sequence (Figure 19a), median seconds."""

    block_size: int
    swap_out_s: float
    swap_in_s: float
    recompute_s: float
    swapped_bytes: int  # one way


def time_swap_vs_recompute(
    spec: ModelSpec,
    block_sizes: Sequence[int],
    *,
    dtype: torch.dtype,
    device: str,
    num_tokens: int = 256,
    staged: bool = True,
) -> list[RecoveryTiming]:
    """Time swapping one sequence out and in, and recomputing its keys and values.

    staged: gather blocks into large transfers; False moves each block of each layer's keys or
    values by itself, as the original system does and the figure shows.
    """
    recompute_s = statistics.median(
        sample_seconds(_forward_run(spec, num_tokens, dtype, device), device, samples=7)
    )
    results = []
    for block_size in block_sizes:
        blocks = -(-num_tokens // block_size)
        size = (2 * blocks, spec.kv_heads, block_size, spec.head_size)
        caches = [
            torch.randn(size, dtype=dtype, device=device) for _ in range(2 * spec.num_layers)
        ]
        space = SwapSpace(caches, blocks, staged=staged)
        scattered = torch.randperm(2 * blocks)[:blocks]
        out_pairs = torch.stack([scattered, torch.arange(blocks)], dim=1)
        in_pairs = out_pairs.flip(1).contiguous()
        out_s, in_s = (
            statistics.median(sample_seconds(run, device, samples=7))
            for run in (_swapping(space.swap_out, out_pairs), _swapping(space.swap_in, in_pairs))
        )
        swapped_bytes = space.pool.numel() * space.pool.element_size()
        results.append(RecoveryTiming(block_size, out_s, in_s, recompute_s, swapped_bytes))
    return results


def _swapping(swap: Callable[[Tensor], None], pairs: Tensor) -> Callable[[], None]:
    return lambda: swap(pairs)


def _forward_run(
    spec: ModelSpec, num_tokens: int, dtype: torch.dtype, device: str
) -> Callable[[], None]:
    """Return a forward pass over one prompt: matrix products and attention of every layer.

    Layers share weights where they would exceed WEIGHT_BYTES; one layer alone is larger than any
    cache at the sizes where that happens. A gated feed-forward has a third matrix.
    """
    hidden, ffn, kv = spec.hidden_size, spec.ffn_size, spec.kv_heads * spec.head_size
    up = 2 * ffn if spec.family == "llama" else ffn
    shapes = [(hidden + 2 * kv, hidden), (hidden, hidden), (up, hidden), (hidden, ffn)]
    layer_bytes = sum(rows * columns for rows, columns in shapes) * dtype.itemsize
    copies = max(1, min(spec.num_layers, WEIGHT_BYTES // layer_bytes))
    layers = [
        [torch.randn(shape, dtype=dtype, device=device) * 0.02 for shape in shapes]
        for _ in range(copies)
    ]
    tokens = torch.randn(num_tokens, hidden, dtype=dtype, device=device)

    def run() -> None:
        state = tokens
        for i in range(spec.num_layers):
            state = _layer(spec, state, layers[i % copies])

    return run


def _layer(spec: ModelSpec, state: Tensor, weights: list[Tensor]) -> Tensor:
    hidden, kv = spec.hidden_size, spec.kv_heads * spec.head_size
    query, key, value = (state @ weights[0].T).split([hidden, kv, kv], dim=1)
    heads = [part.view(len(state), -1, spec.head_size).transpose(0, 1)[None] for part in
             (query, key, value)]  # fmt: skip
    attended = torch.nn.functional.scaled_dot_product_attention(
        *heads, is_causal=True, enable_gqa=spec.kv_heads != spec.num_heads
    )
    mixed = attended[0].transpose(0, 1).reshape(len(state), hidden) @ weights[1].T
    wide = torch.relu(mixed @ weights[2].T)[:, : spec.ffn_size]
    return wide @ weights[3].T
