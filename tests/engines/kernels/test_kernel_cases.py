"""Every kernel against its float64 reference: on a CPU, on a GPU, and on an emulated device."""

from __future__ import annotations

import random
from functools import partial

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from kernel_cases import Target
from kernel_grid import BLOCK_SIZES, LONGEST_CONTEXT, Case, failures, remaining_cases, usual_cases

CPU_REST, CUDA_REST = (list(remaining_cases(device)) for device in ("cpu", "cuda"))
CPU_CASES = [*usual_cases("cpu"), *CPU_REST[::61]]
CUDA_CASES = list(usual_cases("cuda"))
CUDA_PARTS = 32  # of all cases in random order: a part is a sample


def _emulated() -> list[Case]:
    """Sample the CUDA cases (emulation is slow), each kind and every size among them."""
    short = [case for case in CUDA_CASES if "context" not in case.name]
    long = [case for case in CUDA_CASES if "context" in case.name]
    many = [case for case in short if "more pairs" in case.name]
    rows = [case for case in short if case.name.startswith(("norm", "gate", "rotation"))]
    return [*short[::17], *CUDA_REST[: -3 * 64 : 400], *many[:4], *long[::8], *rows[::2]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_whole_grid_holds_every_block_size_and_context_length(device: str) -> None:
    rest = CPU_REST if device == "cpu" else CUDA_REST
    arguments = [case.run.keywords for case in rest if isinstance(case.run, partial)]
    assert len(arguments) == len(rest)
    sizes = {a["shape"].block_size for a in arguments}
    assert {*BLOCK_SIZES, *sizes} >= set(range(1, 257))
    contexts = [n for a in arguments if len(a.get("lengths", ())) > 20 for n in a["lengths"]]
    assert sorted(set(contexts)) == list(range(1, LONGEST_CONTEXT + 1))
    assert {a["shape"].head_size for a in arguments} == {64, 80, 96, 128, 256}


@pytest.mark.parametrize("case", CPU_CASES, ids=lambda case: case.name)
def test_cpu_kernel_matches_float64(case: Case, cpu_target: Target) -> None:
    assert failures([case], cpu_target) == []


@pytest.mark.gpu
@pytest.mark.parametrize("part", range(CUDA_PARTS))
def test_cuda_kernels_match_float64_on_the_whole_grid(part: int, cuda_target: Target) -> None:
    cases = [*CUDA_CASES, *CUDA_REST]
    random.Random(0).shuffle(cases)
    assert failures(cases[part::CUDA_PARTS], cuda_target) == []


@pytest.mark.parametrize("case", _emulated(), ids=lambda case: case.name)
def test_cuda_kernel_matches_float64_on_an_emulated_device(
    case: Case, emulated_target: Target
) -> None:
    assert failures([case], emulated_target) == []
