"""CUDA graphs of decode steps: the launches of a whole forward pass replayed as one.

A graph is captured for a number of rows and a bound on context lengths, both rounded up, the
second time that such a step is run. Its inputs are the rows' own tensors, so there is nothing to
copy; rows beyond those in use hold no tokens, write nowhere and are ignored. FasterTransformer's
cache is divided anew for each batch, whose steps are then all of one shape: one capture serves the
hundreds of steps of a batch.

With a model's slice the graph holds the collectives too. Ranks capture and replay the same graphs
in the same order, since what to capture follows from the rows, which are alike on all.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from engines.execution.kv_cache import KVCache
from engines.kernels.interface import Kernels

MAX_ROWS = 512  # larger batches keep the device busy without
_SMALLEST_CONTEXT = 256
_SMALLEST_ROWS = 8

Decode = Callable[[int, int], Tensor]


def can_capture(device: torch.device, kernels: Kernels) -> bool:
    """Whether decode steps can be captured: the kernels' reference reads lengths on the host."""
    return device.type == "cuda" and kernels.compiled


class DecodeGraphs:
    """Graphs of a decode function, which takes the number of rows and the longest context."""

    def __init__(self, decode: Decode, cache: KVCache, *, max_rows: int) -> None:
        self._decode = decode
        self._cache = cache
        self._max_rows = min(max_rows, MAX_ROWS)
        self._logits: Tensor | None = None  # [max_rows, vocab], of whichever graph ran last
        self._forget()

    def run(self, num_rows: int, longest: int) -> Tensor:
        """Return the logits of at least the first `num_rows` rows, whose contexts are of up to
        `longest` tokens; the next run overwrites them.
        """
        if self._version != self._cache.version:
            self._forget()
        if num_rows > self._max_rows:
            return self._decode(num_rows, longest)
        key = (min(padded_rows(num_rows), self._max_rows), padded_context(longest))
        if self._cache.pads_prompts:  # as many rows as the batch has, up to their end
            key = (num_rows, self._cache.block_size)
        if key not in self._graphs:
            if key not in self._warm:
                return self._run_first(key)
            self._graphs[key] = self._capture(key)
        self._graphs[key].replay()
        assert self._logits is not None
        return self._logits

    def _forget(self) -> None:
        """Begin without graphs: the memory that they read is divided anew."""
        self._version = self._cache.version
        self._warm: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()  # a pool ends with the last of its graphs

    def _run_first(self, key: tuple[int, int]) -> Tensor:
        """Run without a graph, which also shows how large a row of logits is."""
        self._warm.add(key)
        logits = self._decode(*key)
        if self._logits is None:
            self._logits = logits.new_empty((self._max_rows, logits.shape[1]))
        return logits

    def _capture(self, key: tuple[int, int]) -> torch.cuda.CUDAGraph:
        """Capture the step for a shape. All graphs put their logits into one place: with its own,
        each would keep up to 50 MB of OPT's.
        """
        assert self._logits is not None
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._logits.device)
        # NCCL's watchdog asks for the state of events on a thread of its own, which the default
        # mode would take for a mistake in this capture.
        mode = "thread_local"
        with _without_gc(), torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
            self._logits[: key[0]].copy_(self._decode(*key))
        return graph


@contextmanager
def _without_gc() -> Iterator[None]:
    """Keep Python from collecting garbage: executors are part of cycles, and a graph of one that
    is gone, freed in the middle of a capture, would make that capture invalid.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def padded_rows(count: int) -> int:
    """Rows of the graph that serves `count`: powers of two, from 64 on multiples of 32."""
    if count > 64:
        return -(-count // 32) * 32
    return max(_SMALLEST_ROWS, 1 << (count - 1).bit_length())


def padded_context(longest: int) -> int:
    """Bound of the graph that serves contexts up to `longest`: a power of two."""
    return max(_SMALLEST_CONTEXT, 1 << (longest - 1).bit_length())
