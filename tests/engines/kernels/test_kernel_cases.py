"""Every kernel against its float64 reference: on a CPU, on a GPU, and on an emulated device."""

from __future__ import annotations

from functools import partial

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from benchmarks.kernel_cases import Target
from benchmarks.kernel_check import BLOCK_SIZES, LONGEST_CONTEXT, Case, all_cases, remaining_cases

CPU_REST, CUDA_REST = (list(remaining_cases(device)) for device in ("cpu", "cuda"))
CPU_CASES = [*all_cases("cpu"), *CPU_REST[::61]]
CUDA_CASES = list(all_cases("cuda"))


def _emulated() -> list[Case]:
    """Sample the CUDA cases (emulation is slow), each kind and every size among them."""
    short = [case for case in CUDA_CASES if "context" not in case.name]
    long = [case for case in CUDA_CASES if "context" in case.name]
    many = [case for case in short if " 300 " in case.name]
    return [*short[::17], *CUDA_REST[: -3 * 64 : 400], *many[:4], *long[::8]]


def _check(case: Case, target: Target) -> None:
    error = case.run(target)
    assert error <= case.limit, f"error {error:.2e} exceeds {case.limit:.0e}"


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
    _check(case, cpu_target)


@pytest.mark.parametrize("case", CUDA_CASES[::7], ids=lambda case: case.name)
def test_cuda_kernel_matches_float64(case: Case, cuda_target: Target) -> None:
    """A sample; `python -m benchmarks.kernel_check --device cuda` runs them all."""
    _check(case, cuda_target)


@pytest.mark.parametrize("case", _emulated(), ids=lambda case: case.name)
def test_cuda_kernel_matches_float64_on_an_emulated_device(
    case: Case, emulated_target: Target
) -> None:
    _check(case, emulated_target)
