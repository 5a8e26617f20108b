"""Whether a device chooses the reference's tokens, whatever the system: tiny random OPT and LLaMA.

The reference is Astra in FP32 on the CPU with the kernels' plain PyTorch reference. Greedy and beam
tokens must be equal to the last one, on every system, with small and large blocks, with room enough
and with a cache so small that sequences are preempted. Needs no transformers.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from engines.core.config import EngineConfig, Preemption, System
from engines.core.models import ModelSpec
from engines.core.request import Request
from engines.core.sampling import SamplingParams
from engines.execution.probe import build_engine, build_model, serve
from engines.kernels.interface import Kernels
from engines.kernels.reference import ReferenceKernels
from engines.models.interfaces import Model

VOCAB = 97
SPECS = {
    "opt": ModelSpec("tiny-opt", "opt", 2, 2, 128, 160, VOCAB, max_positions=96),
    "llama": ModelSpec("tiny-llama", "llama", 2, 2, 128, 160, VOCAB, 96, num_kv_heads=1),
}
SAMPLINGS = ("n1", "beam2", "beam4")
_WEIGHT_SCALE, _VECTOR_SCALE = 0.2, 0.1  # large enough that outputs differ from prompt to prompt
_ASTRA = EngineConfig(system=System.ASTRA, num_slots=2048, swap_slots=4096, max_model_len=96)
_OTHERS = (System.ORCA_ORACLE, System.ORCA_POW2, System.ORCA_MAX, System.FT)

# Every way to keep the cache; the small ones of Astra preempt.
CONFIGS = {
    f"astra block {size}, {kept.value}, {slots} slots": replace(
        _ASTRA, block_size=size, preemption=kept, num_slots=slots
    )
    for size, slots in ((1, 130), (16, 208), (128, 1024))
    for kept in (Preemption.RECOMPUTE, Preemption.SWAP)
} | {
    system.value: EngineConfig(system=system, num_slots=700, max_batch_size=4, max_model_len=96)
    for system in _OTHERS
}


class RandomWeights:
    """A `WeightSource`: independent normal numbers that depend on the tensor's name alone."""

    def fill(
        self, target: Tensor, name: str, shape: tuple[int, ...], start: tuple[int, ...]
    ) -> None:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            values = values * _VECTOR_SCALE + float(name.endswith("norm.weight"))
        else:
            values = values * _WEIGHT_SCALE
        places = zip(start, target.shape, strict=True)
        target.copy_(values[tuple(slice(first, first + n) for first, n in places)])


def requests(sampling: str) -> list[Request]:
    """A few prompts of different lengths; the same ones in every call."""
    params = SamplingParams.parse(sampling)
    drawn = random.Random(0)
    made = []
    for i in range(8 if not params.beam else 6):
        prompt = tuple(drawn.choices(range(VOCAB), k=1 + 5 * i))
        made.append(Request(i, 0.0, len(prompt), 6 + 5 * (i % 4), params, 0, prompt))
    return made


@cache
def model(kind: str, device: str = "cpu") -> Model:
    return build_model(SPECS[kind], dtype=torch.float32, device=device, source=RandomWeights())


@cache
def expected(kind: str, sampling: str) -> list[list[list[int]]]:
    """The reference's tokens: of each request its outputs."""
    engine, _ = build_engine(model(kind), ReferenceKernels(), _ASTRA)
    return serve(engine, requests(sampling))


def wrong_configs(device: str, kernels: Kernels, kind: str, sampling: str) -> list[str]:
    """Run every configuration on a device; returns those whose tokens are not the reference's."""
    wrong = []
    for name, config in CONFIGS.items():
        engine, _ = build_engine(model(kind, device), kernels, config)
        if serve(engine, requests(sampling)) != expected(kind, sampling):
            wrong.append(name)
    return wrong
