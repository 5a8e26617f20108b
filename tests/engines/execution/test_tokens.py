"""Every system chooses the reference's tokens, on a CPU and on a GPU; no transformers needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from exact_tokens import CONFIGS, SAMPLINGS, SPECS, expected, model, requests, wrong_configs
from torch import Tensor

from engines.execution.probe import build_engine, serve
from engines.kernels.interface import Kernels, PagedContext
from engines.kernels.library import load_kernels
from engines.kernels.reference import ReferenceKernels


def compiled(device: str) -> Kernels:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    kernels = load_kernels(device)
    if not kernels.compiled:
        pytest.skip(f"the {device} kernels are not compiled: python -m engines.kernels.build")
    return kernels


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_system_chooses_the_references_tokens(device: str, kind: str, sampling: str) -> None:
    assert wrong_configs(device, compiled(device), kind, sampling) == []


class ForgetfulKernels(ReferenceKernels):
    """Does not see the last token of a context."""

    def paged_attention(
        self, out: Tensor, query: Tensor, context: PagedContext, scale: float
    ) -> None:
        shorter = (context.context_lens - 1).clamp(min=0)
        super().paged_attention(out, query, replace(context, context_lens=shorter), scale)


@pytest.mark.parametrize("kind", SPECS)
def test_a_kernel_that_forgets_a_token_is_found(kind: str) -> None:
    wrong = wrong_configs("cpu", ForgetfulKernels(), kind, "n1")
    assert set(wrong) >= {name for name in CONFIGS if name.startswith("astra")}


@pytest.mark.parametrize("kind", SPECS)
def test_outputs_differ_from_prompt_to_prompt(kind: str) -> None:
    outputs = {tuple(one[0]) for one in expected(kind, "n1")}
    assert len(outputs) == len(requests("n1"))


@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("sampling", ["n1", "beam4"])
def test_the_small_caches_preempt(block_size: int, sampling: str) -> None:
    config = next(
        config
        for name, config in CONFIGS.items()
        if name.startswith(f"astra block {block_size}, swap")
    )
    engine, _ = build_engine(model("opt"), ReferenceKernels(), config)
    assert serve(engine, requests(sampling)) == expected("opt", sampling)
    assert engine.scheduler.num_preemptions > 0
