"""The check of tokens finds what is wrong, and its small caches do preempt."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from benchmarks import exactness  # noqa: E402
from engines.execution.probe import build_engine, serve  # noqa: E402
from engines.kernels.interface import PagedContext  # noqa: E402
from engines.kernels.reference import ReferenceKernels  # noqa: E402


class ForgetfulKernels(ReferenceKernels):
    """Does not see the last token of a context."""

    def paged_attention(self, out: Any, query: Any, context: PagedContext, scale: float) -> None:
        shorter = (context.context_lens - 1).clamp(min=0)
        less = PagedContext(
            context.key_cache,
            context.value_cache,
            context.block_tables,
            shorter,
            context.max_context_len,
        )
        super().paged_attention(out, query, less, scale)


@pytest.fixture(autouse=True)
def _small(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy only."""
    monkeypatch.setattr(exactness, "SAMPLINGS", ("n1",))


def test_a_kernel_that_forgets_a_token_is_found() -> None:
    results = list(exactness.check_exactness("cpu", ForgetfulKernels()))
    astra = [result for result in results if "astra" in result.name]
    assert len(astra) == 12
    assert not any(result.passed for result in astra)


def test_outputs_differ_from_prompt_to_prompt() -> None:
    for kind in exactness.SPECS:
        outputs = {tuple(one[0]) for one in exactness._expected(kind, "n1")}
        assert len(outputs) == len(exactness.requests("n1"))


@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("sampling", ["n1", "beam4"])
def test_the_small_caches_preempt(block_size: int, sampling: str) -> None:
    config = next(
        config
        for name, config in exactness.configurations().items()
        if name.startswith(f"astra block {block_size}, swap")
    )
    engine, _ = build_engine(exactness._model("opt", "cpu"), ReferenceKernels(), config)
    assert serve(engine, exactness.requests(sampling)) == exactness._expected("opt", sampling)
    assert engine.scheduler.num_preemptions > 0
