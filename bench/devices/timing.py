"""Times the kernels with a cold cache, against the device's own measured copy bandwidth.

Figure 18a compares paged with contiguous attention. Times are of the device (CUDA events) or
wall-clock on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engines.core.errors import UserError
from engines.kernels.interface import ContiguousContext, PagedContext
from engines.kernels.library import load_kernels

FLUSH_BYTES = 512 << 20  # more than any last-level cache to be expected
COPY_BYTES = 1 << 30  # moved by one copy: half read, half written
CACHES_FLUSHED, CACHES_COPIED = 4, 16  # on a CPU that tells its caches: these times all of them


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
        return (cached + vectors) * int(self.dtype.itemsize)


def cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int | None:
    """Size of all last-level caches of this machine's CPU; None where the system does not tell."""
    found: dict[tuple[int, str], int] = {}
    for index in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, cores, size = (
                (index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
            found[int(level), cores] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            return None
    last = max((level for level, _ in found), default=None)
    return None if last is None else sum(n for (level, _), n in found.items() if level == last)


def _scaled_bytes(most: int, caches: int, device: str) -> int:
    """Enough for a CPU's caches, where they are known; a GPU moves the most in no time."""
    known = cache_bytes() if device == "cpu" else None
    return most if known is None else min(most, caches * known)


def sample_seconds(run: Callable[[], object], device: str, *, samples: int = 20) -> list[float]:
    """Time `run` with caches flushed before each sample, after two runs that do not count."""
    size = _scaled_bytes(FLUSH_BYTES, CACHES_FLUSHED, device)
    flush = torch.empty(size // 4, dtype=torch.float32, device=device)
    seconds = []
    for i in range(samples + 2):
        flush.fill_(float(i))
        if device == "cuda":
            # What was written is still in the L2 cache and would be written back while `run` is
            # timed; reading as much drives it out and leaves nothing to be written.
            flush.sum()
        elapsed = _seconds_on_gpu(run) if device == "cuda" else _seconds_on_cpu(run)
        if i >= 2:
            seconds.append(elapsed)
    return seconds


def _seconds_on_cpu(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _seconds_on_gpu(run: Callable[[], object]) -> float:
    event: Callable[..., torch.cuda.Event] = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    # The flush is still running while these are queued, so launch times do not count.
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def measure_copy_bandwidth(device: str) -> float:
    """Return the bandwidth of a large copy on the device, in bytes read plus written per second."""
    size = _scaled_bytes(COPY_BYTES, CACHES_COPIED, device)
    source = torch.ones(size // 8, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return size / statistics.median(sample_seconds(lambda: target.copy_(source), device, samples=7))


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
    context = PagedContext(keys, values, tables, lengths, work.context_len)
    kernels, scale = load_kernels(work.device), work.head_size**-0.5
    return lambda: kernels.paged_attention(out, query, context, scale)


def _contiguous_run(work: AttentionWork) -> Callable[[], None]:
    keys, values = _caches(work, work.batch_size, work.context_len)
    out, query, lengths = _queries(work)
    context = ContiguousContext(keys, values, lengths, work.context_len)
    kernels, scale = load_kernels(work.device), work.head_size**-0.5
    return lambda: kernels.contiguous_attention(out, query, context, scale)
