"""Captured decode steps, and rows that the device has copies of, on a CPU that passes for a GPU."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pytest
import torch
from exact_tokens import SPECS, wrong_configs
from numpy.typing import NDArray
from pretended_device import Graph, pretended_device
from real_serving import checkpoint, engine_over, request, serve

from engines.core.config import EngineConfig, System
from engines.execution import prompts, rows, torch_executor
from engines.execution.graphs import can_capture, padded_context, padded_rows
from engines.execution.transfer import pack, unpack
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
    """Sequences join, leave, fork, are preempted and swapped; FT's batches follow each other."""
    for kind in SPECS:
        for sampling in ("n1", "beam4"):
            assert wrong_configs("cpu", kernels, kind, sampling) == []
    assert pretended_device.replays > 5 * pretended_device.captures > 100


def test_a_batch_that_fills_its_rows_is_captured(
    pretended_device: type[Graph], kernels: Kernels
) -> None:
    """Forty sequences that join at once have room for forty rows, and no more."""
    config = EngineConfig(system=System.ASTRA, num_slots=4096, max_num_seqs=40)
    serve(engine_over(checkpoint("opt"), config), [request(i, (5 + i, 7), 12) for i in range(40)])
    assert (pretended_device.captures, pretended_device.replays) == (1, 10)


def test_a_graph_is_captured_once_for_each_number_of_rows(
    pretended_device: type[Graph], kernels: Kernels
) -> None:
    """Sixty sequences join two by two, and leave: graphs for 8, 16, 32 and 64 rows serve all."""
    engine = engine_over(checkpoint("opt"), EngineConfig(system=System.ASTRA, num_slots=4096))
    serve(engine, [request(i, (5 + i, 7), 55, arrival=i // 2 * 3) for i in range(60)])
    assert pretended_device.captures == 4
    assert pretended_device.replays > 60


def test_each_batch_of_ft_is_captured_once(pretended_device: type[Graph], kernels: Kernels) -> None:
    """A prompt's step and one that shows the shape come first; all others are replayed."""
    config = EngineConfig(system=System.FT, num_slots=1024, max_batch_size=4)
    engine = engine_over(checkpoint("opt"), config)
    serve(engine, [request(i, (5 + i, 7), 12) for i in range(12)])
    assert (pretended_device.captures, pretended_device.replays) == (3, 3 * 10)


def test_a_decode_step_uploads_once(
    pretended_device: type[Graph], kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most steps give somebody a block or let somebody leave; none uploads twice."""
    uploads: list[int] = []

    def counted(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> list[torch.Tensor]:
        uploads.append(len(arrays))
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        return unpack(pack(tensors, pinned=False).clone(), tensors)

    for module in (rows, prompts, torch_executor):
        monkeypatch.setattr(module, "send_all", counted)
    config = EngineConfig(system=System.ASTRA, num_slots=1024, block_size=4)
    engine = engine_over(checkpoint("opt"), config)
    lengths = [(i, 8 + 5 * i) for i in range(8)]
    for i, output_len in lengths:
        engine.add_request(request(i, tuple(range(3, 5 + 2 * i)), output_len))
    engine.step()
    uploads.clear()
    per_step = []
    while engine.has_work:
        engine.step()
        per_step.append(len(uploads))
        uploads.clear()
    assert max(per_step) == 1
    assert sum(per_step) > 20


def test_packed_arrays_are_found_in_a_copy() -> None:
    """Types of all sizes, empty arrays and odd lengths among them."""
    arrays = [
        torch.arange(5, dtype=torch.int32), torch.arange(6.0).double().view(2, 3),
        torch.empty(0, 4, dtype=torch.int64), torch.tensor([True, False, True]),
        torch.tensor([2**40, -1]),
    ]  # fmt: skip
    packed = pack(arrays, pinned=False)
    found = unpack(packed.clone(), arrays)
    assert len(packed) == 24 + 48 + 0 + 8 + 16
    for array, copy in zip(arrays, found, strict=True):
        assert torch.equal(array, copy)
        assert array.dtype == copy.dtype


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
