"""A CPU that the executor treats as it treats a GPU: rows kept twice, decode steps captured.

A capture records what torch calls, on which tensors; a replay calls it again, on the same tensors
and into the same results. So whatever a CUDA graph would freeze (a number that the host read, an
address of the step that was captured) is frozen here too, and gives wrong tokens later.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engines.execution import torch_executor
from engines.execution.rows import DeviceRows, Rows


class Capture(TorchDispatchMode):
    """Records calls while they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Graph:
    """Stands in for `torch.cuda.CUDAGraph`."""

    captures = replays = 0

    def __init__(self) -> None:
        self.capture = Capture()

    def replay(self) -> None:
        """Call what was recorded; a view needs nothing, for it shows memory that is written."""
        for function, args, kwargs, results in self.capture.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
        Graph.replays += 1


@contextmanager
def _capture(graph: Graph, **_: object) -> Iterator[None]:
    assert not gc.isenabled(), "freeing an old graph would spoil the capture"
    with graph.capture:
        yield
    Graph.captures += 1


class ApartRows(Rows):
    """Rows of which the device has copies of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shared = self.device
        self.device = DeviceRows(
            shared.tables.clone(),
            shared.context_lens.clone(),
            shared.start_offsets.clone(),
            shared.last_tokens.clone(),
        )
        self._apart = True


@pytest.fixture
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> type[Graph]:
    """Let executors that are made in this test take the CPU for a GPU."""
    monkeypatch.setattr(Graph, "captures", 0)
    monkeypatch.setattr(Graph, "replays", 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(torch_executor, "Rows", ApartRows)
    monkeypatch.setattr(torch_executor, "can_capture", lambda _device, kernels: kernels.compiled)
    return Graph
