"""The parts of the check of a GPU that measure: times, and the simulation against the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.devices.device import DEFAULT_MODEL
from benchmarks.gpu_checks import find_setup
from benchmarks.gpu_run import Run

if TYPE_CHECKING:
    from engines.models.interfaces import Model

KERNEL_SHARE, PAGED_OVER_CONTIGUOUS, DECODE_STEP = 0.85, 1.05, 1.15  # what an H200 should reach
PROMPT_LENS = (37, 61, 113, 187, 251, 333, 467, 612, 801, 1023)
PROFILED_STEPS = 5


def target(
    name: str, value: float | None, *, least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """What a good device reaches: a number within limits. Missing it is told and is no failure."""
    limit = f">= {least:g}" if math.isinf(most) else f"<= {most:g}"
    met = None if value is None else least <= value <= most
    return {"name": name, "limit": limit, "value": value, "met": met}


def _dummy_model(run: Run) -> Model:
    from engines.execution.probe import build_model

    setup = find_setup(run)
    return build_model(setup.spec, dtype=setup.torch_dtype, device=run.device)


def time_prompts(run: Run) -> dict[str, Any]:
    """Time the first and the second call of PyTorch's attention for prompts of ten lengths.

    With cuDNN's kernels and without: cuDNN plans anew for each length. Another length goes first,
    so that loading a library does not count. Then each way to compute a step's prompts in one call.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from benchmarks.prompts import PROMPTS, time_prompt_attention

    setup, cuda = find_setup(run), torch.backends.cuda
    before, rows = cuda.cudnn_sdp_enabled(), []
    for cudnn in (True, False):
        cuda.enable_cudnn_sdp(cudnn)
        for length in (max(PROMPT_LENS) + 1, *PROMPT_LENS):
            size = (1, setup.spec.num_heads, length, setup.spec.head_size)
            query, key, value = (setup.draw(*size) for _ in "qkv")
            attend = partial(scaled_dot_product_attention, query, key, value, is_causal=True)
            first_s, second_s = (_seconds(attend, run.device) for _ in range(2))
            rows.append({"cudnn": cudnn, "length": length, "first_s": first_s, "again_s": second_s})
    cuda.enable_cudnn_sdp(before)
    shape = {"num_heads": setup.spec.num_heads, "head_size": setup.spec.head_size}
    prompts = PROMPTS[:2] if run.quick else PROMPTS
    ways = time_prompt_attention(run.device, setup.torch_dtype, prompts=prompts, **shape)
    return {"rows": [row for row in rows if row["length"] in PROMPT_LENS], "ways": ways}


def _seconds(run: Callable[[], object], device: str) -> float:
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - started


def time_kernels(run: Run) -> dict[str, Any]:
    """Time paged against contiguous attention: Figure 18a's shapes, then larger ones."""
    from bench.devices.device import Shapes
    from bench.devices.kernels import measure

    plans = [
        Shapes(batches=(8, 32), contexts=(64, 128, 256)),
        Shapes(batches=(1, 8, 32, 64), contexts=(1024, 2048)),
    ]
    if run.quick:
        plans = [Shapes(batches=(2,), contexts=(32,))]
    measured = [measure(find_setup(run), shapes) for shapes in plans]
    found = {key: [row for m in measured for row in m[key]] for key in ("attention", "ratios")}
    large = {
        key: [r for r in found[key] if r["batch_size"] >= 32 and r["context_len"] >= 1024]
        for key in found
    }
    shares = [row["share_of_copy"] for row in large["attention"] if row["kind"] == "paged"]
    ratios = [row["paged_over_contiguous"] for row in large["ratios"]]
    return {
        **found,
        "copy_bandwidth": [each["copy_bandwidth"] for each in measured],
        "targets": [
            target("paged share of copy", min(shares, default=None), least=KERNEL_SHARE),
            target("paged over contiguous", max(ratios, default=None), most=PAGED_OVER_CONTIGUOUS),
        ],
    }


def time_decode(run: Run) -> dict[str, Any]:
    """Time decode steps of a dummy model against reading weights and KV cache once."""
    from bench.devices.timing import measure_copy_bandwidth
    from engines.execution.probe import time_decode_steps
    from engines.kernels.library import load_kernels
    from engines.models.memory import free_memory_bytes

    copy, model = measure_copy_bandwidth(run.device), _dummy_model(run)
    plans = [(32, 330), (1, 330), (8, 330), (16, 330), (64, 330), (32, 1024)]
    if run.quick or run.device == "cpu":
        plans = [(1, 16), (4, 16)] if run.quick else [(1, 128), (16, 128), (64, 128)]
    rows, skipped = [], []
    for num_seqs, context_len in plans:
        release(run.device)
        needed = num_seqs * (context_len + 64) * model.spec.kv_bytes_per_token
        if run.left_s <= 0 or needed > 0.8 * (free_memory_bytes(model.device) or 0):
            skipped.append([num_seqs, context_len])
            continue
        shape = {"num_seqs": num_seqs, "context_len": context_len}
        times = time_decode_steps(
            model, load_kernels(run.device), steps=2 if run.quick else 20, **shape
        )
        moved = model.weight_bytes + num_seqs * context_len * model.spec.kv_bytes_per_token
        over = times.median_s * copy / moved
        step = {"step_s": times.median_s, "quickest_s": min(times.step_s)}
        rows.append({**shape, **step, "host_us": 1e6 * times.host_s, "over_reading_once": over})
    at_32 = [row["over_reading_once"] for row in rows if row["num_seqs"] == 32]
    limit = target("step over reading once at 32", max(at_32, default=None), most=DECODE_STEP)
    return {
        "model": model.spec.name,
        "copy_bandwidth": copy,
        "rows": rows,
        "skipped": skipped,
        "targets": [limit],
    }


def release(device: str) -> None:
    """Give back the memory of what nobody uses any more; executors are part of cycles."""
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def profile_steps(run: Run) -> dict[str, Any]:
    """List the kernels of five decode steps, as torch's profiler sees them, longest first.

    On a CPU torch's operations stand for kernels.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    from engines.execution.probe import WARM_STEPS, start_decoding
    from engines.kernels.library import load_kernels

    shape = (
        {"num_seqs": 2, "context_len": 16} if run.quick else {"num_seqs": 32, "context_len": 330}
    )
    steps = WARM_STEPS + PROFILED_STEPS
    engine, _ = start_decoding(_dummy_model(run), load_kernels(run.device), steps=steps, **shape)
    for _ in range(WARM_STEPS):
        engine.step()
    seen, own = ProfilerActivity.CPU, "self_cpu_time_total"
    if run.device == "cuda":
        seen, own = ProfilerActivity.CUDA, "self_device_time_total"
    started = time.perf_counter()
    with profile(activities=[seen]) as profiler:
        for _ in range(PROFILED_STEPS):
            engine.step()
    wall_s = time.perf_counter() - started
    rows = [
        {"name": e.key, "calls": e.count / PROFILED_STEPS, "us": getattr(e, own) / PROFILED_STEPS}
        for e in profiler.key_averages()
        if getattr(e, own) > 0
    ]
    rows.sort(key=lambda row: -row["us"])
    total = {name: sum(row[name] for row in rows) for name in ("calls", "us")}
    return {**shape, "torch": torch.__version__, "step_s": wall_s / PROFILED_STEPS,
            "per_step": total, "rows": rows[:40], "passed": bool(rows)}  # fmt: skip


def validate(run: Run) -> dict[str, Any]:
    """Hold the simulation against the device: what `bench validate --short` does.

    On a GPU with OPT-13B in FP16 as if it had 40 GiB, on a CPU with OPT-125M in FP32 in miniature.
    """
    from contextlib import nullcontext

    from bench.devices.cases import Subject
    from bench.devices.profile import validation_effort
    from bench.point.spec import Backend
    from bench.validation.cases import Target
    from bench.validation.run import Validation

    setup, backend = find_setup(run), Backend(run.device)
    model = DEFAULT_MODEL["cpu" if run.quick else run.device]
    memory = "40GiB" if backend is Backend.CUDA and not run.quick else None
    target = Target(model, backend, setup.dtype, run.serving_s, short=True, gpu_memory=memory)
    silent = nullcontext(lambda share: None)
    validation = Validation(target, run.out / "validation", print, lambda name: silent)
    subject = Subject(spec=setup.spec, device=run.device, dtype=setup.dtype)
    validation.measure(subject, validation_effort(run.device, short=True))
    return {"validation": validation.run()}
