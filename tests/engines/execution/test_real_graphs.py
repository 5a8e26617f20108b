"""Captured decode steps, and rows that the device has copies of, on a CPU that passes for a GPU."""

from __future__ import annotations

import gc
from typing import NoReturn

import pytest
import torch
from exact_tokens import SPECS, wrong_configs
from pretended_device import Graph, pretended_device
from real_serving import checkpoint, engine_over, request, serve

from engines.core.config import EngineConfig, System
from engines.execution.graphs import can_capture, padded_context, padded_rows
from engines.kernels.interface import Kernels
from engines.kernels.library import load_kernels
from engines.kernels.reference import ReferenceKernels

__all__ = ["pretended_device"]


@pytest.fixture
def kernels() -> Kernels:
    found = load_kernels("cpu")
    if not found.compiled:
        pytest.skip("no compiled CPU kernels (no C++ compiler?)")
    return found


def test_every_system_chooses_the_same_tokens_from_captured_steps(
    pretended_device: type[Graph], kernels: Kernels
) -> None:
    """Sequences join, leave, fork, are preempted and swapped; the rows outgrow their room."""
    for kind in SPECS:
        for sampling in ("n1", "beam4"):
            assert wrong_configs("cpu", kernels, kind, sampling) == []
    assert pretended_device.replays > 5 * pretended_device.captures > 100


def test_a_batch_that_fills_its_rows_is_captured(
    pretended_device: type[Graph], kernels: Kernels
) -> None:
    """Forty sequences that join at once have room for forty rows, and no more."""
    engine = engine_over(checkpoint("opt"), EngineConfig(system=System.ASTRA, num_slots=4096))
    serve(engine, [request(i, (5 + i, 7), 12) for i in range(40)])
    assert (pretended_device.captures, pretended_device.replays) == (1, 10)


def test_garbage_is_collected_again_after_a_capture_that_fails(
    pretended_device: type[Graph], kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = checkpoint("opt")
    engine = engine_over(pair, EngineConfig(system=System.ASTRA, num_slots=1024))
    engine.add_request(request(0, (5, 17, 3), 9))
    engine.step()
    engine.step()

    def explode(*_: object) -> NoReturn:
        assert not gc.isenabled()
        raise RuntimeError("on purpose")

    monkeypatch.setattr(pair.loaded.model, "forward", explode)
    with pytest.raises(RuntimeError, match="on purpose"):
        engine.step()
    assert gc.isenabled()


def test_the_reference_is_not_captured() -> None:
    """It asks the host for lengths, at a GPU's every head size that the kernels do not take."""
    assert not can_capture(torch.device("cuda"), ReferenceKernels())
    assert not can_capture(torch.device("cpu"), load_kernels("cpu"))


def test_graphs_are_padded_to_few_sizes() -> None:
    sizes = [padded_rows(count) for count in range(1, 513)]
    assert all(size >= count for count, size in enumerate(sizes, 1))
    assert len(set(sizes)) <= 20
    assert all(padded_rows(size) == size for size in sizes)
    bounds = [padded_context(longest) for longest in range(1, 2049)]
    assert all(bound >= longest for longest, bound in enumerate(bounds, 1))
    assert set(bounds) == {256, 512, 1024, 2048}
