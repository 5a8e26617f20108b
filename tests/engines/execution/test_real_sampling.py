"""Sampled tokens follow the model's distribution and depend on nothing but seed and request."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from real_serving import checkpoint, engine_over, request, serve, tokens

from engines.core.config import EngineConfig, System
from engines.core.sampling import SamplingParams
from engines.execution.sampling import likeliest, sample, uniform_numbers

PROMPT = (5, 17, 3, 88)


def chi_square(counts: Counter[int], probabilities: np.ndarray) -> tuple[float, int]:
    """Pearson's statistic and degrees of freedom; rare tokens are pooled."""
    total = sum(counts.values())
    common = [t for t, p in enumerate(probabilities) if p * total >= 5]
    observed = [counts[t] for t in common]
    wanted = [probabilities[t] * total for t in common]
    rest = total - sum(wanted)
    if rest >= 5:
        observed.append(total - sum(observed))
        wanted.append(rest)
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    return statistic, len(observed) - 1


def limit_of(freedom: int) -> float:
    """The 99.9 % quantile of chi-square, by Wilson and Hilferty's approximation."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.0902 * spread**0.5) ** 3


def reference_distribution(temperature: float, top_p: float) -> np.ndarray:
    with torch.inference_mode():
        logits = checkpoint("opt").reference(torch.tensor([PROMPT])).logits[0, -1]
    probabilities = (logits.double() / temperature).softmax(-1).numpy()
    order = np.argsort(-probabilities)
    before = np.cumsum(probabilities[order]) - probabilities[order]
    probabilities[order[before >= top_p]] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.7), (6.0, 1.0)])
def test_first_tokens_follow_the_distribution(temperature: float, top_p: float) -> None:
    params = SamplingParams(n=40, temperature=temperature, top_p=top_p)
    config = EngineConfig(system=System.ASTRA, num_slots=8192)
    groups = serve(
        engine_over(checkpoint("opt"), config, seed=3),
        [request(i, PROMPT, 1, sampling=params) for i in range(100)],
    )
    counts = Counter(out[0] for outputs in tokens(groups).values() for out in outputs)
    probabilities = reference_distribution(temperature, top_p)
    assert sum(counts[t] for t in counts if probabilities[t] == 0) == 0
    statistic, freedom = chi_square(counts, probabilities)
    assert freedom >= 3
    assert statistic < limit_of(freedom)


def test_a_wrong_distribution_would_be_seen() -> None:
    wrong = reference_distribution(3.0, 1.0)
    right = reference_distribution(6.0, 1.0)
    drawn = np.random.default_rng(0).choice(len(wrong), size=4000, p=wrong)
    statistic, freedom = chi_square(Counter(drawn.tolist()), right)
    assert statistic > limit_of(freedom)


@pytest.mark.parametrize("system", [System.ORCA_MAX, System.FT])
def test_sampled_tokens_depend_on_nothing_but_seed_and_request(system: System) -> None:
    """Nor on whether others of the batch are cut to the likeliest tokens; FT batches them apart."""
    kinds = [SamplingParams(n=3, temperature=1.5, top_p=top_p) for top_p in (0.9, 1.0)]
    requests = [request(i, PROMPT[: 1 + i % 4], 8, sampling=kinds[i % 2]) for i in range(6)]
    paged = EngineConfig(system=System.ASTRA, num_slots=96, swap_slots=512, block_size=4)
    engine = engine_over(checkpoint("llama"), paged)
    drawn = tokens(serve(engine, requests))
    assert engine.scheduler.num_preemptions > 0
    other = engine_over(checkpoint("llama"), EngineConfig(system=system, num_slots=1024))
    assert tokens(serve(other, requests[::-1])) == drawn
    reseeded = engine_over(checkpoint("llama"), paged, seed=1)
    assert tokens(serve(reseeded, requests)) != drawn
    assert len({tuple(out) for outputs in drawn.values() for out in outputs}) > 15


def test_uniform_numbers_are_uniform_in_every_argument() -> None:
    keys, counters = np.divmod(np.arange(40_000), 200)
    drawn = uniform_numbers(1, keys.astype(np.uint64), counters.astype(np.int32))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.bincount((drawn * 50).astype(int), minlength=50)
    assert ((counts - 800) ** 2 / 800).sum() < limit_of(49)
    grid = drawn.reshape(200, 200)
    for neighbours in (grid[1:].ravel(), grid[:, 1:].ravel()):
        before = grid[:-1].ravel() if neighbours.size == grid[1:].size else grid[:, :-1].ravel()
        assert abs(np.corrcoef(before, neighbours)[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_the_likeliest_token_is_the_first_of_the_highest(dtype: torch.dtype, rows: int) -> None:
    logits = torch.randn(rows, 5000, generator=torch.Generator().manual_seed(rows)).to(dtype)
    logits = logits.round()  # so that many are equal
    expected = [int(np.argmax(row)) for row in logits.float().numpy()]  # NumPy promises the first
    found = likeliest(logits)
    assert found.dtype == torch.int64
    assert found.tolist() == expected


def test_a_tiny_top_p_is_greedy() -> None:
    logits = torch.randn(7, 31, generator=torch.Generator().manual_seed(0))
    drawn = sample(
        logits,
        torch.arange(7),
        torch.rand(7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        temperatures=torch.full((7,), 2.0, dtype=torch.float64),
        top_ps=torch.full((7,), 1e-6, dtype=torch.float64),
    )
    assert drawn.tolist() == logits.argmax(-1).tolist()


def test_the_smallest_share_keeps_the_likeliest_token() -> None:
    """A top-p below the smallest number of FP32, in which temperatures are kept."""
    config = EngineConfig(system=System.ASTRA, num_slots=512)
    drawn, greedy = (
        serve(engine_over(checkpoint("opt"), config), [request(0, PROMPT, 9, sampling=params)])
        for params in (SamplingParams(temperature=1.0, top_p=1e-50), SamplingParams())
    )
    assert tokens(drawn) == tokens(greedy)
