"""Every kernel against its float64 reference: on a CPU, on a GPU, and on an emulated device."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from engines.kernels.cases import Target
from engines.kernels.check import Case, all_cases

CPU_CASES = list(all_cases("cpu"))
CUDA_CASES = list(all_cases("cuda"))


def _emulated() -> list[Case]:
    """Sample the CUDA cases (emulation is slow), each kind and every size among them."""
    short = [case for case in CUDA_CASES if "context" not in case.name]
    return short[::17] + [case for case in short if "300 caches" in case.name][:2]


def _check(case: Case, target: Target) -> None:
    error = case.run(target)
    assert error <= case.limit, f"error {error:.2e} exceeds {case.limit:.0e}"


@pytest.mark.parametrize("case", CPU_CASES, ids=lambda case: case.name)
def test_cpu_kernel_matches_float64(case: Case, cpu_target: Target) -> None:
    _check(case, cpu_target)


@pytest.mark.parametrize("case", CUDA_CASES[::7], ids=lambda case: case.name)
def test_cuda_kernel_matches_float64(case: Case, cuda_target: Target) -> None:
    """A sample; `python -m engines.kernels.check --device cuda` runs them all."""
    _check(case, cuda_target)


@pytest.mark.parametrize("case", _emulated(), ids=lambda case: case.name)
def test_cuda_kernel_matches_float64_on_an_emulated_device(
    case: Case, emulated_target: Target
) -> None:
    _check(case, emulated_target)
