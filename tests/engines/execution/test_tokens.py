"""Every system chooses the reference's tokens, on a CPU and on a GPU; no transformers needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import accumulate

import pytest

pytest.importorskip("torch")

import torch
from exact_tokens import CONFIGS, SAMPLINGS, SPECS, expected, model, requests, wrong_configs
from torch import Tensor

from engines.execution.probe import build_engine, serve
from engines.execution.varlen import IMPLEMENTATIONS, Attend, Lengths, per_sequence
from engines.kernels.interface import Kernels, PagedContext
from engines.kernels.library import load_kernels
from engines.kernels.reference import ReferenceKernels

# A package that is not installed is not asked for, so that nothing is skipped on a GPU.
WAYS = [name for name in IMPLEMENTATIONS if name != "xformers" or find_spec("xformers")]


def compiled(device: str) -> Kernels:
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


def test_prompts_in_one_call_equal_a_call_for_each_on_a_cpu() -> None:
    """What the next test compares, where it runs: the same numbers in two types."""
    assert one_call_error(per_sequence, 64, torch.bfloat16, "cpu") < 2e-2


@pytest.mark.gpu
@pytest.mark.parametrize("head_size", [64, 72, 80, 128, 256])
@pytest.mark.parametrize("name", WAYS)
def test_prompts_in_one_call_equal_a_call_for_each(name: str, head_size: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for dtype, limit in ((torch.float16, 3e-3), (torch.bfloat16, 2e-2)):
        assert one_call_error(IMPLEMENTATIONS[name], head_size, dtype, "cuda") < limit


def one_call_error(
    way: Callable[[Lengths], Attend], head_size: int, dtype: torch.dtype, device: str
) -> float:
    """The largest error of prompts of many lengths, two with a prefix, against FP32."""
    queries, keys = [1, 7, 300, 129], [1, 520, 300, 131]
    starts = (
        torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=device) for n in (queries, keys)
    )
    lengths = Lengths(queries, keys, *starts)
    torch.manual_seed(0)
    shapes = ((sum(queries), 6), (sum(keys), 2), (sum(keys), 2))
    heads = [torch.randn(*shape, head_size).to(device, dtype) for shape in shapes]
    expected = per_sequence(lengths)(*(tensor.float() for tensor in heads))
    return float((way(lengths)(*heads).float() - expected).abs().max())
