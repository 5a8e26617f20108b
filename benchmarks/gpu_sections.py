"""The parts of the check of a GPU: each returns a record of plain values for `gpu_check`."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engines.core.config import find_model
from engines.core.errors import UserError

KERNEL_SHARE, PAGED_OVER_CONTIGUOUS, DECODE_STEP = 0.85, 1.05, 1.2  # what an H200 should reach


@dataclass(frozen=True)
class Run:
    """What every section is told: the device, how much to do, and when to stop."""

    device: str
    quick: bool
    deadline: float

    def within(self, budget_s: float) -> Run:
        """The same, to stop after `budget_s` at the latest."""
        return Run(self.device, self.quick, min(self.deadline, time.monotonic() + budget_s))

    @property
    def is_over(self) -> bool:
        """Whether there is no time left."""
        return self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds until it is over."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Section:
    """A part of the check; `run` returns a record, whose "passed" is False where a check fails.

    It stops after `budget_s`, or is not started with less than `whole_s` left, where it cannot.
    """

    name: str
    budget_s: float
    run: Callable[[Run], dict[str, Any]]
    whole_s: float = 0.0


def target(
    name: str, value: float | None, *, least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """What a good device reaches: a number within limits. Missing it is told and is no failure."""
    limit = f">= {least:g}" if math.isinf(most) else f"<= {most:g}"
    met = None if value is None else least <= value <= most
    return {"name": name, "limit": limit, "value": value, "met": met}


def build_library(run: Run) -> dict[str, Any]:
    """Compile the kernels for this device unless its library is there already."""
    import torch

    from engines.kernels import build, library

    architectures: tuple[str, ...] = build.ARCHITECTURES
    if run.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        architectures = (f"sm_{major}{minor}",)
    folder = build.source_folder()
    found = folder is not None and build.library_path(run.device, folder).exists()
    path = build.build(run.device, architectures=architectures)
    if not library.load_kernels(run.device).compiled:
        raise UserError(f"{path.name} cannot be loaded: the warning above says why")
    return {"library": path.name, "was_there": found}


def check_kernels(run: Run) -> dict[str, Any]:
    """Hold every kernel against float64 on the whole grid, in random order: a part is a sample."""
    import torch

    from benchmarks.kernel_cases import Target
    from benchmarks.kernel_check import CheckResult, whole_grid

    torch.manual_seed(0)
    target = Target(_kernels(run), run.device)
    cases = list(whole_grid(run.device))
    random.Random(0).shuffle(cases)
    wanted = cases[:40] if run.quick else cases
    results = []
    for case in wanted:
        if run.is_over:
            break
        try:
            results.append(CheckResult(case.name, case.run(target), case.limit))
        except RuntimeError as error:
            raise RuntimeError(f"case {case.name}: {error}") from error
    failed = [asdict(result) for result in results if not result.passed]
    worst: dict[str, float] = {}
    for result in results:
        kind = " ".join(result.name.split()[:2])
        worst[kind] = max(worst.get(kind, 0.0), result.max_error)
    return {
        "cases": len(cases),
        "run": len(results),
        "complete": len(results) == len(wanted),
        "largest_errors": worst,
        "failed": failed,
        "passed": not failed and len(results) == len(wanted),
    }


def check_schemas(run: Run) -> dict[str, Any]:
    """Let torch check what the operations say of themselves."""
    from benchmarks.opcheck import failed_operations

    failed = dict(failed_operations(_kernels(run), run.device))
    return {"failed": failed, "passed": not failed}


def check_tokens(run: Run) -> dict[str, Any]:
    """Hold greedy and beam tokens of all systems against the CPU reference's."""
    import torch

    from benchmarks.exactness import check_exactness

    torch.set_num_threads(1)  # threads that wait for each other on tiny tensors only cost time
    results, complete = [], True
    for result in check_exactness(run.device, _kernels(run)):
        results.append(result)
        if run.is_over:
            complete = False
            break
    failed = [asdict(result) for result in results if not result.passed]
    return {
        "run": len(results),
        "complete": complete,
        "failed": failed,
        "passed": complete and not failed,
    }


def time_kernels(run: Run) -> dict[str, Any]:
    """Time paged against contiguous attention: Figure 18a's shapes, then larger ones."""
    from bench.devices.kernels import Shapes, measure_attention
    from bench.devices.timing import measure_copy_bandwidth

    setup = _setup(run)
    copy = measure_copy_bandwidth(run.device)
    plans: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = (
        ((2,), (32,)) if run.quick else ((8, 32), (64, 128, 256)),
        ((4,), (48,)) if run.quick else ((1, 8, 32, 64), (1024, 2048)),
    )
    attention, ratios = [], []
    for batches, contexts in plans:
        if run.is_over:
            break
        shapes = Shapes(batches=batches, contexts=contexts)
        rows, quotients = measure_attention(setup, shapes, copy_bandwidth=copy)
        attention += [asdict(row) for row in rows]
        ratios += [asdict(row) for row in quotients]
    large = [r for r in attention if r["batch_size"] >= 32 and r["context_len"] >= 1024]
    shares = [r["share_of_copy"] for r in large if r["kind"] == "paged"]
    quotients_large = [
        r["paged_over_contiguous"]
        for r in ratios
        if r["batch_size"] >= 32 and r["context_len"] >= 1024
    ]
    return {
        "copy_bandwidth": copy,
        "attention": attention,
        "ratios": ratios,
        "targets": [
            target("paged share of copy", min(shares, default=None), least=KERNEL_SHARE),
            target(
                "paged over contiguous",
                max(quotients_large, default=None),
                most=PAGED_OVER_CONTIGUOUS,
            ),
        ],
    }


def time_recovery(run: Run) -> dict[str, Any]:
    """Time swapping against recomputing (Figure 19a), with and without gathered transfers."""
    from bench.devices.kernels import Shapes, measure_recovery
    from bench.devices.timing import measure_copy_bandwidth

    sizes = (16, 64) if run.quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    shapes = Shapes(block_sizes=sizes, num_tokens=64 if run.quick else 256)
    copy = measure_copy_bandwidth(run.device)
    rows = measure_recovery(_setup(run), shapes, copy_bandwidth=copy)
    return {"recovery": [asdict(row) for row in rows]}


def time_decode(run: Run) -> dict[str, Any]:
    """Time decode steps of a dummy model against reading weights and KV cache once."""
    import torch

    from bench.devices.timing import measure_copy_bandwidth
    from engines.execution.probe import build_model, time_decode_steps

    spec = find_model("opt-125m" if run.quick or run.device == "cpu" else "opt-13b")
    dtype = torch.float32 if run.device == "cpu" else torch.float16
    copy = measure_copy_bandwidth(run.device)
    model = build_model(spec, dtype=dtype, device=run.device)
    plans = ((1, 16), (4, 16)) if run.quick else _decode_plans(run.device)
    rows, skipped = [], []
    for num_seqs, context_len in plans:
        needed = num_seqs * (context_len + 64) * model.spec.kv_bytes_per_token
        if run.is_over or needed > 0.8 * _free_bytes(run.device):
            skipped.append([num_seqs, context_len])
            continue
        times = time_decode_steps(
            model,
            _kernels(run),
            num_seqs=num_seqs,
            context_len=context_len,
            steps=2 if run.quick else 20,
        )
        moved = model.weight_bytes + num_seqs * context_len * model.spec.kv_bytes_per_token
        rows.append(
            {
                "num_seqs": num_seqs,
                "context_len": context_len,
                "step_s": times.median_s,
                "quickest_s": min(times.step_s),
                "host_us": 1e6 * times.host_s,
                "over_reading_once": times.median_s * copy / moved,
            }
        )
    at_32 = [row["over_reading_once"] for row in rows if row["num_seqs"] == 32]
    return {
        "model": spec.name,
        "weight_bytes": model.weight_bytes,
        "copy_bandwidth": copy,
        "rows": rows,
        "skipped": skipped,
        "targets": [
            target("step over reading once at 32", max(at_32, default=None), most=DECODE_STEP)
        ],
    }


def _decode_plans(device: str) -> tuple[tuple[int, int], ...]:
    if device == "cpu":
        return ((1, 128), (16, 128), (64, 128))
    return ((1, 330), (8, 330), (16, 330), (32, 330), (64, 330), (32, 1024))


def measure_device(run: Run) -> dict[str, Any]:
    """Measure the device profile; its text stands in the record."""
    from bench.devices.profile import measure_profile, profile_text, usual_effort

    setup = _setup(run)
    measured = measure_profile(
        f"measured-{run.device}",
        spec=setup.spec,
        device=run.device,
        dtype=setup.dtype,
        effort=usual_effort(run.device, quick=run.quick),
    )
    return {"toml": profile_text(measured).splitlines()}


def _kernels(run: Run) -> Any:
    from engines.kernels.library import load_kernels

    kernels = load_kernels(run.device)
    if not kernels.compiled:
        raise UserError(f"no compiled {run.device} kernels: the section build says why")
    return kernels


def _setup(run: Run) -> Any:
    from bench.devices.device import DEFAULT_MODEL, DTYPES
    from bench.devices.kernels import Setup

    _kernels(run)
    model, dtype = DEFAULT_MODEL[run.device], DTYPES[run.device][0]
    rounds, samples = (1, 1) if run.quick else (3, 7)
    spec = find_model("opt-125m" if run.quick else model)
    return Setup(spec=spec, device=run.device, dtype=dtype, rounds=rounds, samples=samples)


def _free_bytes(device: str) -> int:
    """Free memory, once what PyTorch keeps for later is given back."""
    import torch

    from engines.models.memory import free_memory_bytes

    release(device)
    return free_memory_bytes(torch.device(device)) or 0


def release(device: str) -> None:
    """Give back the memory of what nobody uses any more; executors are part of cycles."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


SECTIONS = (
    Section("build", 200, build_library),
    Section("opcheck", 30, check_schemas),
    Section("kernels", 150, check_kernels),
    Section("tokens", 90, check_tokens),
    Section("kernel-times", 60, time_kernels),
    Section("recovery-times", 40, time_recovery, whole_s=40),
    Section("decode-times", 80, time_decode, whole_s=30),
    Section("profile", 60, measure_device, whole_s=60),
)
