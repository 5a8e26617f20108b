"""The parts of the check of a GPU that pass or fail: library, kernels, tokens, swapping."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_run import Run
from engines.core.errors import UserError
from engines.core.models import find_model

if TYPE_CHECKING:
    from bench.devices.kernels import Setup

ROOT = Path(__file__).parents[1]
KERNEL_TESTS = "tests/engines/kernels"
TOKEN_TESTS = "tests/engines/execution/test_tokens.py"
GRID = "test_cuda_kernels_match_float64_on_the_whole_grid"
SANITIZED = "compute-sanitizer.log"
# The options of pyproject.toml are left out: their plugins need not be installed.
_PYTEST = (
    *("-m", "gpu", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"),
    *("-c", str(ROOT / "pyproject.toml"), "-o", "addopts=", "-o", "filterwarnings="),
)
_MEMORY_ERROR = re.compile(r"=+ (Invalid|Misaligned|Out-of|Uninitialized|Stack)")


def find_setup(run: Run) -> Setup:
    """What to measure on this device; raises UserError without compiled kernels."""
    from bench.devices.device import DEFAULT_MODEL, DTYPES, settle_device
    from bench.devices.kernels import Setup

    device = settle_device(run.device)
    rounds, samples = (1, 1) if run.quick else (3, 7)
    spec = find_model("opt-125m" if run.quick else DEFAULT_MODEL[device])
    return Setup(spec=spec, device=device, dtype=DTYPES[device][0], rounds=rounds, samples=samples)


def bring_library(run: Run) -> dict[str, Any]:
    """Take the library that was compiled elsewhere, or compile it for this device if need be."""
    import torch

    from engines.kernels import build, library

    if run.library is not None:
        path = build.adopt(run.device, run.library)
    elif run.device == "cuda":
        present = "sm_{}{}".format(*torch.cuda.get_device_capability())
        path = build.build("cuda", architectures=[present])
    else:
        path = build.build("cpu")
    if run.device == "cuda":
        library.check_architecture(path)
    library.load_library(path, f"astra_{run.device}")
    return {"library": path.name}


def check_versions(run: Run) -> dict[str, Any]:
    """Name what is installed and check one call of paged attention against float64."""
    import torch

    from engines.execution.device import device_name
    from engines.kernels import build
    from engines.kernels.driver import find_driver

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": device_name(torch.device(run.device)),
        "driver": find_driver(),
        "nvcc": build.find_compiler("cuda"),
    }
    if run.device == "cuda":
        found["capability"] = list(torch.cuda.get_device_capability())
        found["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    setup = find_setup(run)
    sys.path.append(str(ROOT / "tests" / "helpers"))  # the cases that the tests run
    from kernel_cases import Shape, Target, paged_error
    from kernel_grid import LIMITS

    from engines.kernels.library import load_kernels

    shape = Shape(setup.torch_dtype, 128, 16)
    error = paged_error(Target(load_kernels(run.device), run.device), shape, [5, 400])
    return {**found, "paged_error": error, "passed": error <= LIMITS[setup.torch_dtype]}


class Outcomes:
    """A pytest plugin that counts outcomes, and skips what is left once the time is used up."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.num_passed = self.num_late = 0
        self.failed: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def pytest_runtest_setup(self) -> None:
        """Skip the test about to start where no time is left."""
        import pytest

        if self.run.left_s <= 0:
            self.num_late += 1
            pytest.skip("the time was used up")

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that cannot be imported."""
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-4000:]

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note what became of a test."""
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-4000:]
        elif report.skipped:
            self.skipped[report.nodeid] = str(report.longrepr)
        elif report.when == "call":
            self.num_passed += 1


def run_tests(
    run: Run, *, paths: Sequence[str], keyword: str = "", sample: bool = False
) -> dict[str, Any]:
    """Run `pytest -m gpu`; one that is skipped has not passed.

    sample: those that are left when the time is used up need not run.
    """
    import pytest

    outcomes = Outcomes(run)
    words = [*_PYTEST, "-k", keyword, *(str(ROOT / path) for path in paths)]
    status = pytest.main(words, plugins=[outcomes])
    num_missing = len(outcomes.skipped) - (outcomes.num_late if sample else 0)
    return {
        "passed": status == 0 and outcomes.num_passed > 0 and num_missing == 0,
        "num_passed": outcomes.num_passed,
        "failed": outcomes.failed,
        "skipped": outcomes.skipped,
    }


def check_tokens(run: Run) -> dict[str, Any]:
    """Check operations' schemas (`opcheck`) and every system's tokens."""
    return run_tests(run, paths=[KERNEL_TESTS, TOKEN_TESTS], keyword=f"not {GRID}")


def check_grid(run: Run) -> dict[str, Any]:
    """Check as much of the kernels' grid as there is time for, in random order.

    With `sanitize` a part of it runs under compute-sanitizer instead.
    """
    if not run.sanitize:
        return run_tests(run, paths=[KERNEL_TESTS], keyword=GRID, sample=True)
    from engines.kernels.build import find_cuda_program

    program = find_cuda_program("compute-sanitizer")
    if program is None:
        raise UserError("there is no compute-sanitizer: install the whole CUDA toolkit")
    case = f"{ROOT / KERNEL_TESTS / 'test_kernel_cases.py'}::{GRID}[0]"
    command = [program, "--error-exitcode", "9", sys.executable, "-m", "pytest", *_PYTEST, case]
    log = run.out / SANITIZED
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command, timeout=max(1.0, run.left_s), stdout=file, stderr=file, check=False
            )
            status: int | None = done.returncode
        except subprocess.TimeoutExpired:  # what it started ends with this process
            status = None
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if _MEMORY_ERROR.match(line)]
    passed = not errors and status in (0, None)
    return {"passed": passed, "finished": status is not None, "errors": errors, "log": lines[-20:]}


def force_swap(run: Run) -> dict[str, Any]:
    """Serve more sequences than the cache holds, which preempts them by swapping."""
    from engines.core.config import EngineConfig, Preemption, System
    from engines.core.request import Request
    from engines.execution.probe import build_engine, build_model
    from engines.kernels.library import load_kernels

    setup = find_setup(run)
    model = build_model(setup.spec, dtype=setup.torch_dtype, device=run.device)
    num_seqs, prompt_len, output_len = (4, 32, 32) if run.quick else (8, 256, 64)
    needed = num_seqs * (prompt_len + output_len)
    config = EngineConfig(
        system=System.ASTRA,
        num_slots=needed * 7 // 8 // 16 * 16,
        swap_slots=needed,
        max_model_len=model.spec.max_positions,
        preemption=Preemption.SWAP,
        watermark=0.0,
    )
    started = time.perf_counter()
    engine, _ = build_engine(model, load_kernels(run.device), config)
    build_s = time.perf_counter() - started
    groups = [engine.add_request(Request(i, 0.0, prompt_len, output_len)) for i in range(num_seqs)]
    step_s = []
    while engine.has_work:
        started = time.perf_counter()
        engine.step()
        step_s.append(time.perf_counter() - started)
    lens = [len(group.sequences[0].output_token_ids) for group in groups]
    preemptions = engine.scheduler.num_preemptions
    return {
        "passed": preemptions > 0 and lens == [output_len] * num_seqs,
        "preemptions": preemptions,
        "steps": len(step_s),
        "build_s": build_s,
        "median_step_s": sorted(step_s)[len(step_s) // 2],
        "longest_steps_s": sorted(step_s)[-5:],
    }
