"""Writes a measured device profile as TOML, each value with what it was measured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.devices.device import out_of_memory
from bench.machine import git_state, memory_bytes
from bench.results.provenance import source_hash
from engines.core.config import ModelSpec
from engines.core.errors import UserError

if TYPE_CHECKING:
    from bench.devices.measure import Effort, Term

# Of one device alone: no worker processes to drive, and nobody to exchange with.
_SINGLE = {"link_bandwidth": "inf", "link_latency_s": "0.0", "worker_overhead_s": "0.0"}


@dataclass(frozen=True)
class Measured:
    """A profile that was measured."""

    name: str
    device: str
    terms: tuple[Term, ...]
    kv_block_efficiency: Mapping[int, float]
    memory_bytes: int
    about: str
    element_bytes: int


def measure_profile(
    name: str,
    *,
    spec: ModelSpec,
    device: str,
    dtype: str,
    effort: Effort | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure all terms on "cpu" or "cuda"; `tell` hears of each as it is there.

    Raises UserError where memory does not suffice.
    """
    import torch

    from bench.devices.measure import (
        Effort,
        Subject,
        measure_paged_attention,
        measure_terms,
    )
    from engines.execution.device import device_name

    spec = replace(spec, dtype_bytes=getattr(torch, dtype).itemsize)
    subject = Subject(spec, getattr(torch, dtype), device)
    effort = effort or Effort()
    terms: list[Term] = []
    with out_of_memory("use a smaller --model"):
        bandwidth, efficiency = measure_paged_attention(subject, effort)
        terms.append(bandwidth)
        tell(_line(bandwidth))
        for term in measure_terms(subject, effort):
            terms.append(term)
            tell(_line(term))
    return Measured(
        name, device_name(torch.device(device)), tuple(terms), efficiency, _device_memory(device),
        f"{spec.name} in {dtype}", spec.dtype_bytes,
    )  # fmt: skip


def usual_effort(device: str, *, quick: bool = False) -> Effort:
    """GPUs take a larger batch to fill; a quick run tries every step on next to nothing."""
    from bench.devices.measure import Effort

    if quick:
        return Effort(
            tokens=32, batch_size=2, context_len=32, samples=1, rounds=1, steps=2,
            block_sizes=(1, 16, 256),
        )  # fmt: skip
    return Effort(batch_size=32, context_len=1024, tokens=2048) if device == "cuda" else Effort()


def _device_memory(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)
    found = memory_bytes()
    if found is None:
        raise UserError("the size of this machine's memory cannot be found out")
    return found


def _line(term: Term) -> str:
    return f"{term.name} = {term.value:.4g}  # {term.how}"


def profile_text(measured: Measured) -> str:
    """The profile as `--device-profile FILE` takes it."""
    state = git_state()
    dirty = " with changes" if state["git_dirty"] else ""
    lines = [
        f"# {measured.device}, measured with the shapes of {measured.about}.",
        f"# Sources {source_hash()[:16]}, commit {state['git_commit'] or 'unknown'}{dirty}.",
        "",
        f'name = "{measured.name}"',
        f"memory_bytes = {measured.memory_bytes}",
        f"element_bytes = {measured.element_bytes}",
        *(_line(term) for term in measured.terms),
        *(f"{name} = {value}" for name, value in _SINGLE.items()),
        "",
        "# Nothing was fitted to an end-to-end result.",
        "[calibrated]",
        "",
        "# Speed of paged decode attention over block sizes, relative to 16.",
        "[kv_block_efficiency]",
        *(f"{size} = {value:.3f}" for size, value in measured.kv_block_efficiency.items()),
    ]
    return "\n".join(lines) + "\n"
